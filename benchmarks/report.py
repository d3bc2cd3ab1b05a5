"""The machine a benchmark ran on, and its findings as plain text."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from stage import Stage

import queue_eval

THROUGHPUT_FLOORS = {"thread": 5000.0, "process": 3000.0}
GROWTH_FLOOR = 1.3
MEMORY_FLOOR = 300.0
IMPORT_FLOOR_MS = 150.0

Row = tuple[str, str, str]
"""What, measured, and a remark."""


def describe_machine(stage: Stage) -> dict[str, Any]:
    server = stage.link.client.info("server")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "server": f"{server.get('server_name', 'redis')} "
        f"{server.get('valkey_version') or server.get('redis_version')}",
        "appendfsync": stage.link.client.config_get("appendfsync")["appendfsync"],
        "queue_eval": queue_eval.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def as_text(document: dict[str, Any]) -> str:
    """The findings as aligned columns, one section after the other."""
    machine = document["machine"]
    load = ", ".join(f"{load:g}" for load in machine["load_average"])
    lines = [
        f"{machine['cores']} cores {machine['processor']}, {machine['memory_gb']} GB, {machine['system']}",
        f"Python {machine['python']}, {machine['server']}, appendfsync {machine['appendfsync']}",
        f"queue_eval {machine['queue_eval']}, one worker of two slots",
        f"{machine['at']}, load average before {load}",
    ]
    for title, rows in _sections(document):
        lines += ["", title]
        what = max(len(row[0]) for row in rows)
        measured = max(len(row[1]) for row in rows)
        lines += [f"  {a:<{what}}  {b:>{measured}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join(lines)


def _sections(document: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    if "throughput" in document:
        yield "throughput, no-op evaluations per second", list(_throughput(document["throughput"]))
    if "round_trip" in document:
        yield "round trip of one job, ms", list(_round_trips(document["round_trip"]))
    if "growth" in document:
        yield "growth, thread, µs per job submitted and gathered", list(_growth(document["growth"]))
        yield "server memory, bytes per finished job of three fields", list(_memory(document["memory"]))
    if "worker" in document:
        yield "worker, two process slots", list(_worker(document["worker"]))
    if "import" in document:
        yield "import in a fresh interpreter, ms", list(_imports(document["import"]))


def _throughput(found: dict[str, Any]) -> Iterator[Row]:
    yield "bare loop of the same server", f"{found['bare']['per_s']:,.0f}", ""
    for method in found:
        if method in ("bare", "interpreters"):
            continue
        one = found[method]
        remark = f"{one['to_bare']:.3g} of bare"
        if "to_interpreters" in one:
            remark += f", {one['to_interpreters']:.2f} of bare interpreters"
        if method in THROUGHPUT_FLOORS:
            floor = THROUGHPUT_FLOORS[method]
            remark += f"; floor {floor:,.0f}: {_verdict(one['per_s'] >= floor)}"
        yield method, f"{one['per_s']:,.0f}" if one["per_s"] > 100 else f"{one['per_s']:.1f}", remark
    if "interpreters" in found:
        yield "python -c pass, two at once", f"{found['interpreters']['per_s']:,.0f}", ""


def _round_trips(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found.items():
        what = "bare, through two streams" if name == "bare" else name
        yield what, f"{one['median_ms']:.2f}", f"99th percentile {one['p99_ms']:.2f} of {one['trips']}"


def _growth(found: dict[str, Any]) -> Iterator[Row]:
    block, size = found["block"], found["size"]
    yield f"{block:,} jobs of a new campaign", f"{found['small_us_per_job']:.1f}", ""
    yield f"{block:,} jobs beside {size - block:,} finished", f"{found['big_us_per_job']:.1f}", ""
    met = _verdict(found["ratio"] <= GROWTH_FLOOR)
    yield "ratio", f"{found['ratio']:.2f}", f"at most {GROWTH_FLOOR}: {met}"


def _memory(found: dict[str, Any]) -> Iterator[Row]:
    for name, what in (("reuse", "with reuse"), ("no_reuse", "without reuse")):
        one = found[name]
        remark = f"at most {MEMORY_FLOOR:g}: {_verdict(one['bytes_per_job'] <= MEMORY_FLOOR)}"
        yield f"{what}, at {one['jobs']:,} jobs", f"{one['bytes_per_job']:.0f}", remark
        for key, size in sorted(one["by_key"].items(), key=lambda item: -item[1]):
            yield f"  {key}", f"{size:.1f}", ""


def _worker(found: dict[str, Any]) -> Iterator[Row]:
    memory = found["memory"]
    yield "start of the process to registered", f"{found['start_s']:.2f} s", ""
    yield f"memory idle, {memory['now_is']} of parent and children", f"{memory['now_mb']:.0f} MB", ""
    if "peak_rss_mb" in memory:
        remark = "what the processes share is counted in each"
        yield "peak RSS of parent and children, summed", f"{memory['peak_rss_mb']:.0f} MB", remark
    yield "CPU idle", f"{found['idle_cpu_percent']:.2f} %", f"of a core, over {found['idle_observed_s']:g} s"


def _imports(found: dict[str, Any]) -> Iterator[Row]:
    for statement, one in found.items():
        remark = f"imports {', '.join(one['heavy'])}" if one["heavy"] else "no pandas, ray, rq, numpy"
        if statement == "import queue_eval":
            remark += f"; at most {IMPORT_FLOOR_MS:g}: {_verdict(one['median_ms'] <= IMPORT_FLOOR_MS)}"
        yield statement, f"{one['median_ms']:.0f}", remark


def _verdict(met: bool) -> str:
    return "met" if met else "NOT MET"
