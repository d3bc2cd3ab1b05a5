"""A training that is longer than the allocations that it gets, and what may be said of it afterwards."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from queue_eval.model.job import Job
from queue_eval.model.states import State
from tests.slurm.cluster import Cluster
from tests.support.slurm_search import ENDED, Allocations

STEPS = 40
STEPS_PER_CHECKPOINT = 4
STEPS_PER_ALLOCATION = 12
"""A step of 5 s, and Slurm's shortest allocation: one minute."""


class Note(NamedTuple):
    """A line of the side log: what an attempt did, and how far it was."""

    what: str
    """start, step, saved, given back or end."""
    attempt: int
    step: int


class Training(Allocations):
    """One job of `STEPS` steps. It saves after every fourth step, and when its worker's time ends."""

    def __init__(self, cluster: Cluster, home: Path, *, step_s: float) -> None:
        super().__init__(cluster, home, "tests.support.slurm_functions:train", max_losses=STEPS)
        self.step_s = step_s
        self.allocations: list[str] = []
        """Every job of Slurm so far."""
        config = {"log": str(self.log), "step_s": step_s, "steps": STEPS, "every": STEPS_PER_CHECKPOINT}
        (self.job,) = self.evaluator.submit([config])

    # While it runs

    def notes(self) -> list[Note]:
        lines = [line.split("\t") for line in self.log.read_text().splitlines()]
        return [Note(what, int(attempt), int(step)) for what, attempt, step in lines]

    def has_ended(self) -> bool:
        """Also when it has failed."""
        with warnings.catch_warnings():
            # Now and then no worker serves it for more than 10 s.
            warnings.simplefilter("ignore", UserWarning)
            return not self.evaluator.num_outstanding or bool(self.evaluator.gather("ALL", timeout=0.0))

    def steps_begun(self) -> int:
        return sum(note.what == "step" for note in self.notes())

    def allocation(self) -> str:
        """The job of Slurm that serves it now; as a script of a user's does, another one when it is over."""
        if not self.allocations or self.state(self.allocations[-1]) in ENDED:
            length_s = STEPS_PER_ALLOCATION * self.step_s
            # Slurm counts in minutes: shorter ones end by their worker's own time limit.
            limit = ("--time-limit", f"{length_s:g}s") if length_s < 60 else ()
            # What runs is given back before the end; it needs time for a step before that.
            notice_s = 1.5 * self.step_s
            notice = ("--notice", f"{notice_s:g}s")
            self.allocations.append(
                self.submit("worker.sbatch", "-c1", "-t1", "--signal=B:CONT@1", worker=(*limit, *notice))
            )
        return self.allocations[-1]

    def wait_steps(self, count: int) -> bool:
        """Until so many more steps have begun in this allocation. False: one of both is over before."""
        job, goal = self.allocation(), self.steps_begun() + count

        def is_over() -> bool:
            return self.has_ended() or self.state(job) in ENDED

        self.wait(lambda: self.steps_begun() >= goal or is_over(), 60 + STEPS * self.step_s)
        return not is_over()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """As `wait_until`, but it looks less often: Slurm's programs take long, and many clusters may run."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"timed out\n{self.log.read_text()}"
            time.sleep(0.5)

    # Afterwards

    def finish(self) -> Job:
        """Its only job, which has succeeded, and has done each step."""
        assert self.job.state is State.SUCCEEDED, self.job.error
        assert self.job.result == sum(range(STEPS))
        return self.job

    def steps_since_checkpoints(self) -> int:
        """How many steps had begun since the last checkpoint at each interruption: those that are lost."""
        lost = 0
        for _, notes in itertools.groupby(self.notes(), lambda note: note.attempt):
            since = 0
            for note in notes:
                since = since + 1 if note.what == "step" else 0 if note.what in ("saved", "end") else since
            lost += since
        return lost

    def check_order(self) -> None:
        """One attempt at a time; each begins at the newest checkpoint."""
        saved, latest = 0, 0
        for note in self.notes():
            assert note.attempt >= latest, self.log.read_text()
            latest = note.attempt
            if note.what == "start":
                # A save that was complete may not have been noted any more.
                assert saved <= note.step <= saved + STEPS_PER_CHECKPOINT, self.log.read_text()
            elif note.what == "saved":
                saved = note.step
