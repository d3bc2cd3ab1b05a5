"""Run functions that print, for tests."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

Config = dict[str, Any]


def _wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.005)


def print_and_wait(config: Config) -> str:
    """Prints a line, waits for `gate`, and prints another."""
    print("first of", config["id"])
    if "quick" not in config:
        _wait_for(config["gate"])
    print("last of", config["id"])
    return "done"


def flood(config: Config) -> str:
    """Prints as fast as it can until `gate` is there."""
    line = b"x" * 1023 + b"\n"
    while not Path(config["gate"]).exists():
        for _ in range(100):
            os.write(1, line)
    print("end of the flood")
    return "done"


def print_rows(config: Config) -> str:
    """Prints numbered lines until `gate` is there: so slowly that 16 KiB are those of a minute."""
    row = 0
    while not Path(config["gate"]).exists():
        print("row", row)
        sys.stdout.flush()
        row += 1
        time.sleep(0.05)
    return str(row)


def silent(config: Config) -> str:
    """Prints nothing, and waits for `gate`."""
    _wait_for(config["gate"])
    return "done"


def count_to(config: Config) -> int:
    """Prints so many numbered lines; then dies, or waits for `gate`, if it is to."""
    for row in range(config["rows"]):
        print("row", row)
    if config.get("die"):
        os._exit(3)
    if "gate" in config:
        _wait_for(config["gate"])
    return config["rows"]
