"""A campaign whose workers are jobs of a test cluster, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from queue_eval import Evaluator
from queue_eval.model.job import Job
from queue_eval.model.states import State
from tests.slurm.cluster import KILL_WAIT_S, Cluster
from tests.support.processes import environment_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples/deploy"
COUNT = 200
LONG_S = 40.0
"""Longer than a drain after SIGTERM may last (20 s), and than Slurm waits before SIGKILL (30 s)."""

ENDED = ("COMPLETED", "CANCELLED", "TIMEOUT", "FAILED", "PREEMPTED", "NODE_FAIL")
DAEMONS = ("munged", "slurmctld", "slurmd")


class Allocations:
    """A campaign, and the jobs of Slurm that serve it."""

    def __init__(self, cluster: Cluster, home: Path, run_function: str, **options: Any) -> None:
        self.cluster = cluster
        self.folder = home.parent
        self.log = self.folder / "side.log"
        self.log.touch()
        self._home = home
        self.evaluator: Evaluator = Evaluator.create(
            run_function, "process",
            {"home": home, "campaign": "slurm", "local_workers": False, **options},
        )  # fmt: skip

    # Jobs of Slurm

    def submit(self, file: str, *options: str, worker: Collection[str] = ()) -> str:
        """Submit one of the files that users are given, as it is; the id of the job."""
        cluster = self.cluster
        cluster.environment |= {
            "QUEUE_EVAL_VENV": str(Path(sys.executable).parents[1]), "QUEUE_EVAL_HOME": str(self._home),
            "QUEUE_EVAL_LOGS": str(self.folder), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        where = ("--chdir", str(self.folder))
        return cluster.run("sbatch", "--parsable", *where, *options, str(FILES / file), *worker).strip()

    def state(self, job: str) -> str:
        """As Slurm calls it: PENDING, RUNNING, COMPLETING, COMPLETED, ..."""
        return self.cluster.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def processes_of(self, job: str) -> list[psutil.Process]:
        """The workers, their children and what these have started: whatever was born in the allocation."""
        return [each for each in self.cluster.processes() if environment_of(each).get("SLURM_JOB_ID") == job]

    def wait_off(self, job: str, timeout_s: float = KILL_WAIT_S + 15) -> str:
        """Until Slurm says that the job runs no more: it has ended, or waits for its next start."""
        return wait_until(lambda: (state := self.state(job)) in (*ENDED, "PENDING") and state, timeout_s)

    def check_gone(self, processes: Collection[psutil.Process]) -> None:
        """Nothing of an allocation that is over runs any more."""
        psutil.wait_procs(processes, timeout=3)
        assert not [each for each in processes if is_alive(each)]

    # The end

    def check_cluster_is_empty(self) -> None:
        """All jobs have ended, and only the daemons are left of all that was ever started in the cluster."""
        wait_until(lambda: not self.cluster.run("squeue", "-h"), KILL_WAIT_S + 30)
        wait_until(lambda: not self.left(), 5)

    def left(self) -> list[list[str]]:
        found = []
        for each in self.cluster.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if each.name() not in (*DAEMONS, "slurmscriptd"):
                    found.append(each.cmdline())
        return found

    def output(self) -> str:
        """The logs of the workers."""
        logs = sorted(self.folder.glob("worker*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)

    def close(self) -> None:
        self.evaluator.close()


class Search(Allocations):
    """200 evaluations. Ten of them last `LONG_S`, the others `short_s`; about every tenth is a program."""

    def __init__(self, cluster: Cluster, home: Path, *, short_s: float = 1.0) -> None:
        super().__init__(cluster, home, "tests.support.slurm_functions:work", max_attempts=1)
        self.evaluator.submit([self._config(x, short_s) for x in range(COUNT)])

    def _config(self, x: int, short_s: float) -> dict[str, Any]:
        is_long = x % 20 in (3, 13) and x % 40 < 20
        program = x % 20 == 13 or x % 10 == 7
        return {"x": x, "log": str(self.log), "work_s": LONG_S if is_long else short_s, "program": program}

    def wait_busy(self, job: str, count: int = 20) -> None:
        """Until this job has begun so many evaluations."""
        wait_until(lambda: len(self.begun_by(job)) >= count, 120)

    def begun_by(self, job: str) -> list[int]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [int(line[1]) for line in lines if line[0] == "start" and line[3] == job]

    def finish(self, timeout_s: float = 240, *, losses: int = 0) -> list[Job]:
        """Wait for all results: each came once, and is right. At most `losses` of them were charged one."""
        with warnings.catch_warnings():
            # The next worker may come more than 10 s after the last one.
            warnings.simplefilter("ignore", UserWarning)
            jobs = self.evaluator.gather("ALL", timeout=timeout_s)
        assert sorted(job.result for job in jobs) == list(range(COUNT)), [j.error for j in jobs if j.error]
        assert all(job.result == job.config["x"] and job.state is State.SUCCEEDED for job in jobs)
        assert all(job.cause is None for job in jobs)
        charged = {job.id: job.attempts for job in jobs if job.attempts != 1}
        assert len(charged) <= losses, f"attempts charged: {charged}"
        assert all(attempts == 2 for attempts in charged.values()), charged
        return jobs


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
