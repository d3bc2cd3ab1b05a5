"""What the benchmarks evaluate: as little as possible, so that only overhead is left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def no_op(config: dict[str, Any]) -> float:
    return float(config["x"])


def small_configs(first: int, count: int) -> list[dict[str, Any]]:
    """Configs of three fields, all different."""
    return [{"x": number, "rate": number / 7, "kind": "relu"} for number in range(first, first + count)]


def sleep(config: dict[str, Any]) -> Any:
    """Sleeps for as long as the config says."""
    time.sleep(config["sleep"])
    return config["x"]


def until_removed(config: dict[str, Any]) -> Any:
    """Notes in a file when it began, and runs until that file is gone."""
    log = Path(config["log"])
    with log.open("a") as file:
        file.write(f"{time.time()}\n")
    while log.exists():
        time.sleep(0.005)
    return config["x"]
