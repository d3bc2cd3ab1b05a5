"""What the benchmarks evaluate: as little as possible, so that only overhead is left.

It imports next to nothing: `subprocess` imports it for every job.
"""

from __future__ import annotations

import _thread
import os
import time

TYPE_CHECKING = False  # as in `typing`, whose import takes as long as the start of an interpreter

if TYPE_CHECKING:
    from typing import Any


def no_op(config: dict[str, Any]) -> float:
    return float(config["x"])


def sized(config: dict[str, Any]) -> Any:
    """A text of as many bytes as the config says; a no-op when it says nothing of that."""
    return "x" * config["bytes"] if "bytes" in config else no_op(config)


def timed(config: dict[str, Any]) -> list[Any]:
    """Sleeps for as long as the config says; by its own clock: its slot, when it began, when it ended."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    if config["sleep"]:
        time.sleep(config["sleep"])
    slot = f"{os.getpid()}-{_thread.get_ident()}"
    return [config["x"], slot, began, time.clock_gettime(time.CLOCK_MONOTONIC)]


def small_configs(first: int, count: int) -> list[dict[str, Any]]:
    """Configs of three fields, all different."""
    return [{"x": number, "rate": number / 7, "kind": "relu"} for number in range(first, first + count)]


def sleep(config: dict[str, Any]) -> Any:
    """Sleeps for as long as the config says."""
    time.sleep(config["sleep"])
    return config["x"]


def until_removed(config: dict[str, Any]) -> Any:
    """Notes in a file when it began, and runs until that file is gone."""
    from pathlib import Path

    log = Path(config["log"])
    _note_begin(config)
    while log.exists():
        time.sleep(0.005)
    return config["x"]


def report_evenly(config: dict[str, Any]) -> Any:
    """Begins as `until_removed` does, then makes so many reports, in bursts; when it began with them."""
    from queue_eval import current_job

    job = current_job()
    until_removed(config)
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    for step in range(config["reports"]):
        job.report(step, loss=1 / (step + 1), accuracy=step / config["reports"])
        if (step + 1) % config["burst"] == 0:
            pause_s = began + (step + 1) / config["per_s"] - time.clock_gettime(time.CLOCK_MONOTONIC)
            time.sleep(max(pause_s, 0.0))
    return [config["x"], began]


def time_reports(config: dict[str, Any]) -> Any:
    """What each report takes of the run function, in seconds: so many, each after some computation."""
    from queue_eval import current_job

    job = current_job()
    took_s = []
    for step in range(config["reports"]):
        computes_until = time.perf_counter() + config["compute"]
        while time.perf_counter() < computes_until:
            pass
        began = time.perf_counter()
        job.report(step, loss=1 / (step + 1), accuracy=step / config["reports"])
        took_s.append(time.perf_counter() - began)
    return took_s


def until_stopped(config: dict[str, Any]) -> Any:
    """Notes in a file when it began, and runs until it is asked to stop; when it saw that."""
    from queue_eval import current_job

    job = current_job()
    _note_begin(config)
    while job.stop_requested != "stop":
        time.sleep(0.01)
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def _note_begin(config: dict[str, Any]) -> None:
    with open(config["log"], "a") as file:  # noqa: PTH123 - without an import
        file.write(f"{time.time()}\n")
