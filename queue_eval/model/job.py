"""Defines the job as a driver holds it: plain data, and readings that the server is asked for when needed."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from queue_eval.foreign_text import last_line
from queue_eval.model.report import Report
from queue_eval.model.states import State


class Execution(NamedTuple):
    """One attempt of a job, as far as it is on record."""

    number: int
    """The number of its lease: the `attempt` that `current_job` shows. It only grows."""
    worker: str | None
    host: str | None
    started_at: datetime | None
    """UTC, by the server's clock, like `finished_at`. None where it is not on record."""
    finished_at: datetime | None
    """None while it runs."""
    outcome: str
    """"running", "succeeded", "failed", "cancelled", or "released": given back without charge."""
    cause: str | None
    """Why it failed: "error", "timeout", "lost", "nan" or "inf"; "stopped": it succeeded early, as asked."""
    error: str | None
    """Remote traceback of a failure; why a released one was given back."""
    output: str | None
    """What it has printed, where that was captured."""

    @property
    def run_s(self) -> float | None:
        """How long it ran, in seconds, where that is on record."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


class JobSource(ABC):
    """Reads what a job does not carry, for the job with this id.

    Guarantees: copies of a job share it; it is not pickled (a job that was pickled has none). Raises
    QueueEvalError when the server cannot be asked.
    """

    @abstractmethod
    def output(self, job_id: int) -> str | None:
        """Captured output of the attempt that settled the job; None where there is none."""

    @abstractmethod
    def executions(self, job_id: int) -> Sequence[Execution]:
        """Every attempt on record, oldest first."""

    @abstractmethod
    def reports(self, job_id: int) -> Sequence[Report]:
        """Every report on record, in order."""

    def __deepcopy__(self, memo: Any) -> JobSource:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


class Job:
    """One requested evaluation of a config.

    Unpacks as ``config, result = job``, the config then without ``"id"``. Times are by the server's clock.
    """

    READY: ClassVar[int] = 0
    RUNNING: ClassVar[int] = 1
    DONE: ClassVar[int] = 2

    __slots__ = (
        "_readings", "_source", "attempts", "cause", "config", "duration", "elapsed_sec", "error",
        "finished_ms", "host", "id", "releases", "result", "run_function", "source", "started_ms", "state",
        "status", "stopped_early", "submitted_ms", "tag", "worker",
    )  # fmt: skip

    id: int
    """Counts from 1 in each campaign."""
    config: dict[str, Any]
    """A copy of what was submitted, with ``"id"`` set."""
    run_function: Any
    status: int
    """`READY`, `RUNNING` or `DONE`, as the driver knows it."""
    state: State
    """Of an unfinished job, the last one that this driver knows."""
    result: Any
    """What the run function returned; FAIL_RETURN_VALUE, or `failure_value`, when failed or cancelled."""
    error: str | None
    """Remote traceback of a failure."""
    cause: str | None
    """Why it failed: "error", "timeout", "lost"; "nan" or "inf": its result is NaN or infinite."""
    attempts: int
    """Executions begun and charged."""
    releases: int
    """Attempts given back without charge, by a drain, a preemption or a worker that could not run it."""
    stopped_early: bool
    """Whether it has succeeded, and ended early because it was asked to (`Evaluator.stop`)."""
    worker: str | None
    """The worker that ran its last attempt."""
    host: str | None
    """The host of that worker."""
    source: str | None
    """Short hash of the run function's source that gave the result, where known."""
    duration: float
    """Submission to completion, in seconds."""
    elapsed_sec: float
    """The campaign's creation to completion, in seconds."""
    submitted_ms: float | None
    started_ms: float | None
    finished_ms: float | None
    tag: Any
    """The JSON value that was given to `submit` with the config; None for none."""

    def __init__(self, id: int, config: dict[str, Any], run_function: Any) -> None:  # noqa: A002 - DeepHyper's
        self._begin(id, copy.deepcopy(config), run_function)

    def _begin(self, id: int, config: dict[str, Any], run_function: Any) -> None:  # noqa: A002
        self.id = id
        self.config = config
        self.config["id"] = id
        self.run_function = run_function
        self.status = self.READY
        self.state = State.PENDING
        self.result = None
        self.error = None
        self.cause = None
        self.attempts = 0
        self.releases = 0
        self.stopped_early = False
        self.worker = None
        self.host = None
        self.source = None
        self.duration = 0.0
        self.elapsed_sec = 0.0
        self.submitted_ms = None
        self.started_ms = None
        self.finished_ms = None
        self.tag = None
        self._source: JobSource | None = None
        """Where `output`, `executions` and `reports` are read."""
        self._readings: dict[str, Any] | None = None
        """What was read there of a finished job: it does not change any more."""

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        # A job that an earlier version has pickled has none of these.
        self.tag = self._source = self._readings = None
        self.stopped_early = False
        for name, value in state[1].items():
            setattr(self, name, value)

    @classmethod
    def owning(
        cls, id: int, config: dict[str, Any], run_function: Any, source: JobSource | None = None  # noqa: A002
    ) -> Job:
        """A job that owns `config` from now on, instead of a copy. The caller must not change it any more."""
        job = cls.__new__(cls)
        job._begin(id, config, run_function)
        job._source = source
        return job

    @property
    def submitted_at(self) -> datetime | None:
        """When the server took it (UTC)."""
        return _utc(self.submitted_ms)

    @property
    def started_at(self) -> datetime | None:
        """Start of the last attempt (UTC)."""
        return _utc(self.started_ms)

    @property
    def finished_at(self) -> datetime | None:
        """When its outcome was recorded (UTC)."""
        return _utc(self.finished_ms)

    @property
    def run_s(self) -> float | None:
        """Seconds the last attempt ran."""
        return _seconds(self.started_ms, self.finished_ms)

    @property
    def wait_s(self) -> float | None:
        """Seconds from submission to the start of the last attempt."""
        return _seconds(self.submitted_ms, self.started_ms)

    @property
    def output(self) -> str | None:
        """What the attempt that settled it has printed, or None. Read from the server at the first look."""
        text: str | None = self._read("output", None)
        return text

    @property
    def executions(self) -> list[Execution]:
        """Every attempt on record, oldest first. Read from the server at the first look."""
        return list(self._read("executions", ()))

    @property
    def reports(self) -> list[Report]:
        """Every report of its attempts, in order. Read from the server at the first look."""
        return list(self._read("reports", ()))

    def _read(self, name: str, nothing: Any) -> Any:
        """What the source has under this name, and `nothing` without a source."""
        known = self._readings or {}
        if name in known:
            return known[name]
        if self._source is None:
            return nothing
        value = getattr(self._source, name)(self.id)
        if self.status == self.DONE:
            self._readings = known | {name: value}
        return value

    def own_config(self) -> dict[str, Any]:
        """A copy of the config without ``"id"``, as it was submitted."""
        config = copy.deepcopy(self.config)
        config.pop("id", None)
        return config

    def __iter__(self) -> Iterator[Any]:
        return iter((self.own_config(), self.result))

    def __getitem__(self, index: Any) -> Any:
        return (self.own_config(), self.result)[index]

    def __repr__(self) -> str:
        end = ""
        if self.status == self.DONE:
            end = f", result={self.result!r}" if self.error is None else f", error={last_line(self.error)!r}"
        return f"Job(id={self.id}, status={self.status}, state={self.state.value}, config={self.config}{end})"

    def _repr_html_(self) -> str:
        from queue_eval.model.html import job_html

        return job_html(self)


def _utc(time_ms: float | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)


def _seconds(start_ms: float | None, end_ms: float | None) -> float | None:
    return None if start_ms is None or end_ms is None else max(0.0, end_ms - start_ms) / 1000
