"""A campaign under load: a driver that submits and gathers in a thread while a test attacks."""

from __future__ import annotations

import threading
from typing import Any

from queue_eval import Evaluator
from queue_eval.model.job import Job
from tests.support.fault_fleet import Fleet, check_all_recorded
from tests.support.waiting import wait_until


class Load:
    """`count` jobs of about 5 ms, submitted in batches of 20 while others are gathered."""

    def __init__(
        self, fleet: Fleet, evaluator: Evaluator, count: int, *, sleep_s: float = 0.005, first: int = 0
    ) -> None:
        self.evaluator = evaluator
        self.gathered: list[Job] = []
        self._fleet = fleet
        self._count = count
        self._sleep_s = sleep_s
        self._first = first
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        end = self._first + self._count
        try:
            for first in range(self._first, end, 20):
                batch = range(first, min(first + 20, end))
                self.evaluator.submit([self._fleet.config(x, sleep_s=self._sleep_s) for x in batch])
                if self.evaluator.num_outstanding >= 40:
                    self.gathered += self.evaluator.gather("BATCH", 20)
            self.gathered += self.evaluator.gather("ALL")
        except BaseException as error:
            self._failure = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait_done(self, part: float) -> None:
        """Until this part of all jobs has been gathered, or all is over."""
        wait_until(lambda: self.is_over or len(self.gathered) >= part * self._count, 60)

    def finish(self, timeout_s: float = 60.0) -> list[Any]:
        """What the driver gathered, once it has ended."""
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        assert self.is_over, "the driver hangs"
        return sorted(job.result for job in self.gathered)

    def check_results(self, timeout_s: float = 60.0) -> None:
        """All is over: each job gathered once, with its own result."""
        assert self.finish(timeout_s) == list(range(self._first, self._first + self._count))
        assert len({job.id for job in self.gathered}) == self._count
        assert all(job.result == job.config["x"] for job in self.gathered)

    def check(self, timeout_s: float = 60.0, *, runs: int = 0) -> None:
        """All is over: each job gathered once and recorded once, with at most so many `runs` too many."""
        self.check_results(timeout_s)
        assert sum(self._fleet.begun().values()) <= self._count + runs
        check_all_recorded(self._fleet.queue(self.evaluator.campaign), self._count)
