"""Reports of running jobs on their way from the server to a driver's callbacks. In memory only.

::

    ReportIntake ──add──▶ queue ──deliver──▶ on_report(job, report), outside all locks
                   │
                   └▶ marks: how far the reports of each job were read
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from queue_eval.errors import SearchTerminationError
from queue_eval.model.job import Job
from queue_eval.model.report import Report

MOST_WAITING = 20_000
"""So many reports wait for callbacks at most, but for those of the job that was read last."""

_LEAST_TURN_S = 0.05
"""For how long a wait without any time calls callbacks."""

OnReport = Callable[[Job, Report], SearchTerminationError | None]
"""Calls all callbacks with a report. Returns the error by which one of them ends the search, if any does."""

Numbered = tuple[int, Report]
"""A report with its number, which counts from 1 in each attempt."""


class Mark(NamedTuple):
    """How far the reports of a job were read."""

    attempt: int
    number: int
    """The report that was read last."""
    epoch: int
    """Of the link, when that was read."""
    ends: dict[int, tuple[datetime, int]]
    """Attempt -> time and number of its newest report that was read, in any epoch."""
    closed: int
    """The attempts up to this one belong to a job that had finished; -1: none."""

    def covers(self, number: int, report: Report) -> bool:
        """Whether a report that was read in another epoch was added before.

        A server that went back in time gives the same tokens again: only the times tell their reports apart.
        They are compared within an attempt, for the server's clock may be set back between two.
        """
        end = self.ends.get(report.attempt)
        # Several reports may have been made in one millisecond.
        return report.attempt <= self.closed or (end is not None and (report.at, number) <= end)


class ReportQueue:
    """The reports that wait for the callbacks of one driver.

    Guarantees: each report is delivered once in the life of a driver, those of a job in their order, by one
    thread at a time. Assumes: the caller holds the ledger's lock, `lock`, for every call but `deliver`.
    """

    def __init__(self, lock: threading.Condition, call: OnReport) -> None:
        self._lock = lock
        self._call = call
        self._queue: deque[tuple[Job, Report]] = deque()
        self._left: Counter[Job] = Counter()
        """How many reports of each job are not delivered, those among them that a callback sees just now."""
        self._marks: dict[int, Mark | int] = {}
        """Id -> its mark; of a finished job, the number of its last attempt that has reported."""
        self._turn: _Turn | None = None

    # What was read ------------------------------------------------------------------------------------

    def after(self, job_id: int, epoch: int) -> tuple[int, int]:
        """The (attempt, number) after which the reports of this job are to be read in this epoch."""
        mark = self._marks.get(job_id)
        if mark is None:
            return (0, 0)
        if isinstance(mark, int):
            return (mark + 1, 0)
        # In a new epoch the server may have gone back in time, and have given the same tokens again.
        return (mark.attempt, mark.number) if mark.epoch == epoch else (mark.closed + 1, 0)

    def add(self, job: Job, found: Iterable[Numbered], epoch: int) -> None:
        """Add what was read of a job from `after` on, but for what was added in an earlier epoch."""
        before = self._marks.get(job.id)
        seen = before if isinstance(before, Mark) and before.epoch != epoch else None
        new = [one for one in found if seen is None or not seen.covers(*one)]
        if not new:
            return
        length, left = len(self._queue), self._left[job]
        try:
            self._queue.extend((job, report) for _, report in new)
            self._left[job] = left + len(new)
            self._marks[job.id] = _moved(before, new, epoch)
        except BaseException:  # interrupted: it is read again
            while len(self._queue) > length:
                self._queue.pop()
            self._left[job] = left
            raise

    def close_job(self, job: Job) -> None:
        """The job is finished. Should it run again, the reports of its later attempts are new."""
        mark = self._marks.get(job.id)
        if isinstance(mark, Mark):
            self._marks[job.id] = mark.attempt

    def forget(self, job_id: int) -> None:
        """The server gives this id to another job."""
        self._marks.pop(job_id, None)

    def holds(self, job: Job) -> bool:
        """Whether reports of this job are not delivered yet."""
        return self._left[job] > 0 if self._left else False

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= MOST_WAITING

    @property
    def is_empty(self) -> bool:
        return not self._queue

    # Delivery -----------------------------------------------------------------------------------------

    @property
    def is_delivered_here(self) -> bool:
        """Whether this thread is in a callback: it has called the evaluator in there."""
        return self._turn is not None and self._turn.thread == threading.get_ident()

    @property
    def is_delivered_elsewhere(self) -> bool:
        """Whether another thread is in a callback."""
        return self._turn is not None and self._turn.thread != threading.get_ident()

    def deliver(
        self, deadline: float | None, check_open: Callable[[], None]
    ) -> SearchTerminationError | None:
        """Call the callbacks with what waits, until `deadline` (monotonic, s), but for a moment at least.

        Does nothing while another thread delivers, or this one in a callback. `check_open` is called under
        the lock before each report. Returns the error by which a callback ends the search, as soon as one
        does.
        """
        mine = _Turn(threading.get_ident())
        # Who asks again and again with no time at all gets through them, too.
        until = math.inf if deadline is None else max(deadline, time.monotonic() + _LEAST_TURN_S)
        ending = None
        try:
            with self._lock:
                if self._turn is not None or not self._queue:
                    return None
                self._turn = mine
            is_first = True
            while ending is None and (is_first or time.monotonic() < until):
                is_first = False
                with self._lock:
                    check_open()
                    if not self._queue:
                        break
                    job, report = self._queue.popleft()
                ending = self._call(job, report)
                with self._lock:
                    self._note_delivered(job)
            return ending
        except BaseException:
            with self._lock:
                if self._turn is mine:  # it was interrupted, maybe between any two steps
                    self._left = Counter(job for job, _ in self._queue)
            raise
        finally:
            with self._lock:
                if self._turn is mine:
                    self._turn = None
                    self._lock.notify_all()

    def _note_delivered(self, job: Job) -> None:
        self._left[job] -= 1
        if self._left[job] <= 0:
            del self._left[job]


def _moved(before: Mark | int | None, new: Sequence[Numbered], epoch: int) -> Mark:
    """The mark behind these reports."""
    ends = dict(before.ends) if isinstance(before, Mark) else {}
    closed = before.closed if isinstance(before, Mark) else -1 if before is None else before
    ends |= {report.attempt: (report.at, number) for number, report in new}
    number, report = new[-1]
    return Mark(report.attempt, number, epoch, ends, closed)


class _Turn:
    """One thread's turn to deliver."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
