"""Run functions that look at themselves, for tests: each writes what it saw into `config["log"]`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import queue_eval

Config = dict[str, Any]


def tell(config: Config, **facts: Any) -> None:
    with Path(config["log"]).open("a") as log:
        log.write(json.dumps({"job": config["id"], **facts}) + "\n")


def _wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.005)


def report_all(config: Config) -> int:
    """Reports its steps, at once."""
    job = queue_eval.current_job()
    for step in range(config["steps"]):
        job.report(step, loss=float(config.get("loss", step)), job=config["id"])
    return config["steps"]


def report_and_wait(config: Config) -> str:
    """Reports a step, and waits for `gate`."""
    job = queue_eval.current_job()
    job.report(1, loss=0.5)
    tell(config, did="reported", attempt=job.attempt, pid=os.getpid())
    _wait_for(config["gate"])
    return "done"


def until_told(config: Config) -> Any:
    """Looks until it is told something. Then it does as it is told."""
    job = queue_eval.current_job()
    tell(config, did="begun", attempt=job.attempt, at=time.time(), pid=os.getpid())
    while (word := job.stop_requested) is None:
        if config.get("gate") and Path(config["gate"]).exists():
            return "gate"
        time.sleep(0.001)
    tell(config, did=word, attempt=job.attempt, at=time.time())
    if word == "drain":
        job.give_back(config.get("reason", ""))
    return word


def give_back_at_first(config: Config) -> int:
    """Gives itself back until `times` attempts have; then it succeeds."""
    job = queue_eval.current_job()
    tell(config, did="begun", attempt=job.attempt, at=time.time())
    if job.attempt <= config["times"]:
        job.give_back("not here")
    return job.attempt


def train(config: Config) -> int:
    """Steps with a checkpoint after each; `until` is where it waits to be killed or for `gate`."""
    job = queue_eval.current_job()
    start = 0
    if job.checkpoint is not None:
        start = int((job.checkpoint / "step").read_text()) + 1
    tell(config, did="begun", attempt=job.attempt, start=start, pid=os.getpid())
    for step in range(start, config["steps"]):
        job.report(step, loss=1.0 / (step + 1))
        with job.save_checkpoint() as folder:
            (folder / "step").write_text(str(step))
        tell(config, did="saved", step=step)
        if step == config.get("until") and job.attempt == 1:
            _wait_for(config["gate"])
    if config.get("fail") == job.attempt:
        raise RuntimeError("asked to fail")
    return start


def in_a_folder(config: Config) -> str:
    job = queue_eval.current_job()
    (job.folder / "file").write_text("x")
    tell(config, did="folder", folder=str(job.folder), again=str(job.folder))
    if config.get("fail"):
        raise RuntimeError("asked to fail")
    return str(job.folder)


def facts(config: Config) -> dict[str, Any]:
    job = queue_eval.current_job()
    return {
        "id": job.id, "campaign": job.campaign, "attempt": job.attempt, "config": job.config,
        "worker": job.worker, "slots": job.slots, "remaining_s": job.remaining_s,
    }  # fmt: skip


def report_from_everywhere(config: Config) -> int:
    """Reports from a thread, and from a fork."""
    job = queue_eval.current_job()
    thread = threading.Thread(target=lambda: queue_eval.current_job().report(1, thread=1.0))
    thread.start()
    thread.join()
    pid = os.fork()
    if pid == 0:
        try:
            queue_eval.current_job().report(2, fork=1.0)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    job.report(3, main=1.0)
    return 3


def hang_in_a_fork_that_gives_back(config: Config) -> int:
    """A fork gives the attempt back while the process itself hangs."""
    job = queue_eval.current_job()
    tell(config, did="begun", attempt=job.attempt)
    if job.attempt > 1:
        return job.attempt
    if os.fork() == 0:
        queue_eval.current_job().give_back("from a fork")
    time.sleep(600)
    return 0


def act(config: Config) -> Any:
    """One of the above, by its name."""
    return globals()[config["do"]](config)


def save_and_give_back(config: Config) -> list[Any]:
    """The first attempt saves, and gives itself back from a thread."""
    job = queue_eval.current_job()
    if job.checkpoint is not None:
        return [job.attempt, (job.checkpoint / "step").read_text()]
    with job.save_checkpoint() as folder:
        (folder / "step").write_text("7")
    tell(config, did="saved", folder=str(folder))
    thread = threading.Thread(target=job.give_back, args=("as if the time were over",), daemon=True)
    thread.start()
    time.sleep(600)
    return []


def report_from_a_program(config: Config) -> str:
    """A program that the job starts reports, and looks until it is told to stop."""
    program = (
        "import sys, time, queue_eval\n"
        "job = queue_eval.current_job(sys.argv[1])\n"
        "job.report(1, program=1.0)\n"
        "while job.stop_requested != 'stop':\n"
        "    time.sleep(0.01)\n"
    )
    command = [sys.executable, "-c", program, queue_eval.current_job().token()]
    return subprocess.run(command, check=False, text=True, capture_output=True).stderr
