"""Callbacks: what a driver calls when its jobs are submitted and gathered."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from queue_eval.driver.report_queue import OnReport
from queue_eval.errors import SearchTerminationError, UsageError
from queue_eval.foreign_text import last_line, one_line, plain
from queue_eval.model.codec import EXACT_FLOAT
from queue_eval.model.job import Job
from queue_eval.model.moves import Snapshot
from queue_eval.model.report import Report
from queue_eval.model.states import State
from queue_eval.user_warning import warn_user

if TYPE_CHECKING:
    import pandas as pd

log = plain(logging.getLogger(__name__))


class Callback:
    """Base class for callbacks. Any object with one of these methods will do.

    A callback may also have ``on_report(job, report)``. It is called in the driver while that waits, with
    each `Report` of each job that the driver will gather: once, in the order of the job, before `on_done`.
    It may call the evaluator, such as ``evaluator.stop([job])``. One with ``on_wait(counts, planned)`` is
    called about once a second while the driver waits, and when all is gathered: with how many jobs of the
    campaign are in each state, and how many there will be in all, as far as is known.
    """

    def on_launch(self, job: Job) -> None:
        """Called in the driver when `job` has been submitted."""

    def on_done(self, job: Job) -> None:
        """Called in the driver when `job` is gathered.

        Raising SearchTerminationError ends the search: `gather` lets it through once the whole batch is
        recorded and all callbacks have run.
        """


class ProfilingCallback(Callback):
    """Records the number of outstanding jobs over time; see `profile`."""

    def __init__(self) -> None:
        self.n = 0
        self.data: list[list[float]] = []

    def on_launch(self, job: Job) -> None:  # noqa: ARG002
        self._note(+1)

    def on_done(self, job: Job) -> None:  # noqa: ARG002
        self._note(-1)

    def _note(self, change: int) -> None:
        # Jobs adopted from an earlier life were never launched in this one.
        self.n = max(0, self.n + change)
        self.data.append([time.time(), self.n])

    @property
    def profile(self) -> pd.DataFrame:
        """Columns ``timestamp`` (Unix, s) and ``n_jobs_running``, one row per change."""
        import pandas as pd  # It is heavy, and only a look at the profile needs it.

        return pd.DataFrame(self.data, columns=["timestamp", "n_jobs_running"])


class LoggerCallback(Callback):
    """Prints a line for each finished job."""

    def __init__(self) -> None:
        self._best: float | None = None
        self._done = 0

    def on_done(self, job: Job) -> None:
        self._done += 1
        self._best = better(self._best, job)
        received = f"job {job.id} {_end_of(job, 200)}"
        if not _has_failed(job):
            received = f"received objective: {_shown(job.result)}"
        print(  # noqa: T201 - telling the user is what it is for
            f"[{self._done:05d}] -- best objective: {_shown(self._best)} -- {received}"
        )


class TqdmCallback(Callback):
    """A progress bar with the best objective so far, and how many jobs have failed.

    `max_evals`: the bar's total. With None it grows with the jobs that are submitted.
    """

    def __init__(self, max_evals: int | None = None) -> None:
        from tqdm.auto import tqdm  # Only those who want a bar pay for it.

        self._best: float | None = None
        self._failed = 0
        self._shown: dict[str, Any] = {"objective": None}
        self._grows = max_evals is None
        self._total = max_evals or 0
        self._bar = tqdm(total=self._total)

    def on_launch(self, job: Job) -> None:  # noqa: ARG002
        self._grow(self._total + 1)

    def on_done(self, job: Job) -> None:
        self._best = better(self._best, job)
        if _has_failed(job):
            self._failed += 1
            self._shown["failed"] = f"{self._failed}, the last: job {job.id} {_end_of(job, 60)}"
        # An adopted job was launched in an earlier life.
        self._grow(max(self._total, int(self._bar.n) + 1))
        self._shown["objective"] = self._best
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(1)

    def _grow(self, total: int) -> None:
        if self._grows:
            self._bar.total = self._total = total


def _result_of(job: Job) -> Any:
    return job.result


class SearchEarlyStopping(Callback):
    """Ends the search when the best objective has not improved for `patience` finished jobs.

    `objective_func` maps a job to the number to maximise, by default its result. It is not called for jobs
    that failed or were cancelled: they have no objective, and improve nothing. Nor do NaN, infinities and
    text, such as the ``"F_…"`` by which run functions written for DeepHyper say that they failed.
    Raises SearchTerminationError in `on_done`, which `gather` lets through.
    """

    def __init__(self, patience: int = 10, objective_func: Callable[[Job], Any] = _result_of) -> None:
        self._best: Any = None
        self._not_better = 0
        self._patience = patience
        self._objective_func = objective_func

    def on_done(self, job: Job) -> None:
        objective = None if _has_failed(job) else self._objective_func(job)
        if objective is None or isinstance(objective, str) or _is_infinite_or_nan(objective):
            self._not_better += 1
        elif self._best is None:
            self._best = objective
        elif objective > self._best:
            print(  # noqa: T201 - DeepHyper tells the user, too
                f"Objective has improved from {_shown(self._best)} -> {_shown(objective)}"
            )
            self._best = objective
            self._not_better = 0
        else:
            self._not_better += 1
        if self._not_better >= self._patience:
            message = f"it did not improve for the last {self._patience} evaluations"
            print(f"Stopping the search because {message}!")  # noqa: T201 - as above
            raise SearchTerminationError(message)


class Callbacks:
    """Calls a driver's callbacks. One that raises is reported, and the job and the other callbacks go on."""

    def __init__(self, callbacks: Iterable[Any] | None) -> None:
        try:
            self.all = list(callbacks or ())
        except TypeError:
            raise UsageError("callbacks is not a list; give a list of callbacks") from None
        for callback in self.all:
            is_one = any(hasattr(callback, name) for name in ("on_launch", "on_done", "on_report", "on_wait"))
            if isinstance(callback, type) or not is_one:
                raise UsageError(
                    f"{callback!r} is not a callback; give an object with on_launch(job) and on_done(job)"
                )
        self._blamed: set[tuple[int, int]] = set()
        """Which callbacks (by position) have raised for a report of which job."""
        self._mute: list[Any] = []
        """Callbacks whose `on_wait` has raised, and was reported."""

    @property
    def on_report(self) -> OnReport | None:
        """What to call with each report; None when no callback wants any."""
        return self._reported if any(hasattr(callback, "on_report") for callback in self.all) else None

    @property
    def on_wait(self) -> Callable[[Snapshot], None] | None:
        """What to call while the driver waits; None when no callback wants it."""
        return self._waiting if any(hasattr(callback, "on_wait") for callback in self.all) else None

    def launched(self, job: Job) -> None:
        self._call("on_launch", job)

    def done(self, job: Job) -> SearchTerminationError | None:
        """Call `on_done`. Returns the error by which a callback ends the search, if any does."""
        return self._call("on_done", job)

    def _waiting(self, snapshot: Snapshot) -> None:
        counts = {state.value: count for state, count in snapshot.counts.items()}
        for callback in self.all:
            method = getattr(callback, "on_wait", None)
            if method is None:
                continue
            try:
                method(counts, snapshot.planned)
            except Exception as error:
                if callback in self._mute:
                    continue
                self._mute.append(callback)
                name = type(callback).__name__
                log.exception("callback %s.on_wait raised", name)
                _warn(f"callback {name}.on_wait raised, and is called on: {type(error).__name__}: {error}")

    def _reported(self, job: Job, report: Report) -> SearchTerminationError | None:
        """Call `on_report`. Returns as `done` does."""
        return self._call("on_report", job, report)

    def _call(self, name: str, job: Job, *more: Any) -> SearchTerminationError | None:
        ending = None
        for position, callback in enumerate(self.all):
            method = getattr(callback, name, None)
            if method is None:
                continue
            try:
                method(job, *more)
            except SearchTerminationError as error:
                ending = ending or error
            except Exception as error:
                if name == "on_report" and self._has_blamed(position, job):
                    continue
                log.exception("callback %s.%s raised for job %s", type(callback).__name__, name, job.id)
                _warn(
                    f"callback {type(callback).__name__}.{name} raised for job {job.id}, which goes on: "
                    f"{type(error).__name__}: {error}"
                )
        return ending

    def _has_blamed(self, position: int, job: Job) -> bool:
        """Whether this callback was reported for this job before: a job may have thousands of reports."""
        blamed = (position, job.id)
        is_known = blamed in self._blamed
        self._blamed.add(blamed)
        return is_known


def _warn(message: str) -> None:
    # Where warnings are errors, this one must not lose the job. It has been logged already.
    with contextlib.suppress(UserWarning):
        warn_user(message)


def _has_failed(job: Job) -> bool:
    return job.state in (State.FAILED, State.CANCELLED)


def _end_of(job: Job, length: int) -> str:
    """How a job without a result ended: the last line of its traceback, cut to `length` characters."""
    if job.state is State.CANCELLED:
        return "was cancelled"
    last = last_line(job.error or "")
    reason = last if len(last) <= length else f"{last[:length]}…"
    return one_line(f"failed ({job.cause}): {reason}")


def better(best: float | None, job: Job) -> float | None:
    """The higher of `best` and the job's result, where that is a finite number."""
    result = job.result
    if _has_failed(job) or isinstance(result, bool) or not isinstance(result, (int, float)):
        return best
    if _is_infinite_or_nan(result):
        return best
    return result if best is None else max(best, result)


def _is_infinite_or_nan(value: Any) -> bool:
    """Works for numpy's scalars, too: the user's function may return them."""
    try:
        return not math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # It is no number.
        return False


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > EXACT_FLOAT:
        return str(value)
    return f"{value:.5f}" if isinstance(value, (int, float)) else repr(value)
