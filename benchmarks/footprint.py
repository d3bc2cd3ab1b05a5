"""What it costs to be there: a worker's start, its memory and CPU while idle, and the import."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from speed import Progress
from stage import SLOTS, Stage

HEAVY = ("pandas", "ray", "rq", "numpy")
"""What `import queue_eval` must not import."""

_TIMED_IMPORT = """
import json, sys, time
began = time.perf_counter()
{statement}
took_ms = 1000 * (time.perf_counter() - began)
print(json.dumps([took_ms, [name for name in {heavy!r} if name in sys.modules]]))
"""


def worker(stage: Stage, starts: int, idle_s: float, progress: Progress) -> dict[str, Any]:
    """Start-up time, memory and idle CPU of a worker with `SLOTS` warm processes."""
    progress("worker: start-up")
    start_s = []
    for _ in range(starts):
        with stage.worker() as started:
            start_s.append(started.start_s)
    progress(f"worker: idle for {idle_s:g} s")
    with stage.driver("process") as driver:
        family = driver.worker.family()
        if len(family) != 1 + SLOTS:
            raise RuntimeError(f"the worker has {len(family) - 1} children, not {SLOTS}")
        time.sleep(1.0)  # its heartbeat and listeners settle down
        memory = {"now_mb": sum(map(_memory_now, family)) / 1e6, "now_is": _memory_kind()}
        peaks = [_peak_rss(process) for process in family]
        if None not in peaks:
            memory["peak_rss_mb"] = sum(filter(None, peaks)) / 1e6
        before = sum(map(_cpu_s, family))
        began = time.perf_counter()
        time.sleep(idle_s)
        cpu_s = sum(map(_cpu_s, family)) - before
        percent = 100 * cpu_s / (time.perf_counter() - began)
    return {
        "start_s": statistics.median(start_s),
        "starts_s": start_s,
        "memory": memory,
        "idle_cpu_percent": percent,
        "idle_observed_s": idle_s,
    }


def imports(times: int, progress: Progress) -> dict[str, Any]:
    """Milliseconds of importing, in fresh interpreters, and which heavy packages came along."""
    progress("import")
    found: dict[str, Any] = {}
    for statement in ("import queue_eval", "from queue_eval import Evaluator"):
        program = _TIMED_IMPORT.format(statement=statement, heavy=HEAVY)
        command = [sys.executable, "-c", program]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(times)]
        found[statement] = {"median_ms": statistics.median(run[0] for run in runs), "heavy": runs[0][1]}
    return found


def _memory_kind() -> str:
    return "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "RSS"


def _memory_now(process: psutil.Process) -> int:
    """PSS where there is one: what processes share is counted once. Elsewhere RSS."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def _peak_rss(process: psutil.Process) -> int | None:
    with suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return int(match[1]) * 1024 if match else None
    return None


def _cpu_s(process: psutil.Process) -> float:
    """CPU time so far. Linux counts it in nanoseconds by thread; elsewhere in ticks of 10 ms or so."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    if nanoseconds := [int(file.read_text().split()[0]) for file in threads]:
        return sum(nanoseconds) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)
