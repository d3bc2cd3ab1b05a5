"""The run functions of these tests. Their side logs tell what ran where."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from queue_eval import current_job


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


def train(config: dict[str, Any]) -> int:
    """Adds up the numbers of its steps. Its state is in its checkpoints only: what is lost, it repeats."""
    job = current_job()
    step = total = 0
    if job.checkpoint is not None:
        step, total = map(int, (job.checkpoint / "state").read_text().split())

    def write(what: str) -> None:
        append(config["log"], f"{what}\t{job.attempt}\t{step}\n")

    def save() -> None:
        with job.save_checkpoint() as folder:
            (folder / "state").write_text(f"{step} {total}")
        write("saved")

    write("start")
    while step < config["steps"]:
        if job.stop_requested == "drain":
            save()
            write("given back")
            job.give_back("the allocation ends")
        write("step")
        time.sleep(config["step_s"])
        step, total = step + 1, total + step
        job.report(step, total=total)
        if step % config["every"] == 0:
            save()
    write("end")
    return total


def note(config: dict[str, Any], what: str) -> None:
    append(config["log"], f"{what} {config['id']} {os.getpid()} {os.environ.get('SLURM_JOB_ID', '-')}\n")


def append(path: str, line: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, line.encode())
    finally:
        os.close(log)
