"""Run functions of the tests of several hosts: their side log tells which execution began and ended where."""

from __future__ import annotations

import os
import pathlib
import socket
import time
from typing import Any


def work(config: dict[str, Any]) -> Any:
    """Sleeps, and waits for a file of its host, as the config says; returns its `x` doubled."""
    _note(config, "start")
    if "sleep_s" in config:
        time.sleep(config["sleep_s"])
    if "gate" in config:
        gate = pathlib.Path(f"{config['gate']}-{socket.gethostname()}")
        while not gate.exists():
            time.sleep(0.005)
    _note(config, "end")
    return 2 * config["x"]


def _note(config: dict[str, Any], what: str) -> None:
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(log, f"{what} {config['id']} {socket.gethostname()}\n".encode())
    finally:
        os.close(log)
