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
    with log.open("a") as file:
        file.write(f"{time.time()}\n")
    while log.exists():
        time.sleep(0.005)
    return config["x"]
