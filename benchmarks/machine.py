"""The machine a benchmark runs on, and the CPU time of processes on it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

import queue_eval
from benchmarks.stage import Stage


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
        "queue_eval": queue_eval.__version__,
    }


def cpu_s(process: psutil.Process) -> float:
    """CPU time so far. Linux counts it in nanoseconds by thread; elsewhere in ticks of 10 ms or so."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    if nanoseconds := [int(file.read_text().split()[0]) for file in threads]:
        return sum(nanoseconds) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
