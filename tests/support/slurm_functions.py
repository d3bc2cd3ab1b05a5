"""The run function of these tests. Its side log tells which Slurm job ran what."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any


def work(config: dict[str, Any]) -> Any:
    """Takes `work_s` by itself or in a program that it starts; returns its `x`."""
    note(config, "start")
    if config["program"]:
        # Like a user's solver: it keeps the default signals, and dies of a SIGTERM to all of the job.
        subprocess.run(["sleep", str(config["work_s"])], check=True)
    else:
        time.sleep(config["work_s"])
    note(config, "end")
    return config["x"]


def note(config: dict[str, Any], what: str) -> None:
    line = f"{what} {config['id']} {os.getpid()} {os.environ.get('SLURM_JOB_ID', '-')}\n".encode()
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, line)
    finally:
        os.close(log)
