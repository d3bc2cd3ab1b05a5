"""Run functions that leave a side log of their own: which executions began, and which ended."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time
from typing import Any


def work(config: dict[str, Any]) -> Any:
    """Sleeps, waits for a file, dies or prints as the config says; returns its `x`."""
    note(config, "start")
    if "poison" in config:
        os._exit(config["poison"])
    if "say" in config:
        print(config["say"])
    if "sleep_s" in config:
        time.sleep(config["sleep_s"])
    while "gate" in config and not pathlib.Path(config["gate"]).exists():
        time.sleep(0.005)
    if "program" in config:
        subprocess.run(config["program"], check=True)
    if "report" in config:
        import queue_eval

        for step in range(config["report"]):
            queue_eval.current_job().report(step, value=step)
    if config.get("eat"):
        eaten = b"x" * config["eat"]
        time.sleep(60)
        del eaten
    if config.get("raise"):
        raise ValueError(config["raise"])
    if "print" in config:
        print(config["print"])
    note(config, "end")
    return config["x"]


def note(config: dict[str, Any], what: str) -> None:
    line = f"{what} {config['id']} {os.getpid()} {os.getppid()}\n".encode()
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, line)
    finally:
        os.close(log)
