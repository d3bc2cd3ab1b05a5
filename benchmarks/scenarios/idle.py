"""What a worker costs that has nothing to do."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.machine import cpu_s
from benchmarks.stage import SLOTS, Stage, open_stage

TITLE = "an idle worker of two warm process slots"


def measure(extent: Extent, progress: Progress) -> Found:
    progress(f"idle worker, for {extent.idle_s:g} s")
    with open_stage() as stage, stage.driver("process") as driver:
        family = driver.worker.family()
        if len(family) != 1 + SLOTS:
            raise RuntimeError(f"the worker has {len(family) - 1} children, not {SLOTS}")
        time.sleep(1.0)  # its heartbeat and listeners settle down
        server = stage.server_process()
        commands, cpu, server_cpu = _commands(stage), sum(map(cpu_s, family)), cpu_s(server)
        began = time.perf_counter()
        time.sleep(extent.idle_s)
        took_s = time.perf_counter() - began
        cpu = sum(map(cpu_s, family)) - cpu
        server_cpu = cpu_s(server) - server_cpu
        # Less the one command that counts them.
        commands = _commands(stage) - commands - 1
        resident = sum(process.memory_info().rss for process in family)
        shared_once = sum(map(_memory, family))
        peaks = [_peak_rss(process) for process in family]
    note = f"over {extent.idle_s:g} s"
    rows = [
        Row("cpu", "CPU of the worker and its children", 100 * cpu / took_s, "% of a core", note),
        Row("server cpu", "CPU of the server meanwhile", 100 * server_cpu / took_s, "% of a core"),
        Row("commands", "commands that the server executes", commands / took_s, "/s", "also in scripts"),
        Row("resident", "resident, of all three processes", resident / 1e6, "MB", "shared pages in each"),
        Row("memory", f"{_memory_kind()} of all", shared_once / 1e6, "MB", "shared pages once"),
    ]
    if None not in peaks:
        rows.append(Row("peak", "highest resident of each, summed", sum(filter(None, peaks)) / 1e6, "MB"))
    return Found(rows)


def _commands(stage: Stage) -> int:
    return int(stage.link.client.info("stats")["total_commands_processed"])


def _memory_kind() -> str:
    return "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "RSS"


def _memory(process: psutil.Process) -> int:
    """PSS where there is one: what processes share is counted once. Elsewhere RSS."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def _peak_rss(process: psutil.Process) -> int | None:
    with suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return int(match[1]) * 1024 if match else None
    return None
