"""States of a job, methods of execution, and other words that code, keys and output share."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Method(StrEnum):
    """How workers execute a campaign's jobs."""

    THREAD = "thread"
    PROCESS = "process"
    SUBPROCESS = "subprocess"
    RAY = "ray"
    RQ = "rq"


class Outcome(StrEnum):
    """How an attempt ended; all but OK and CANCELLED are also the `cause` of a failure."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    LOST = "lost"
    NAN = "nan"
    INF = "inf"
    """The result is NaN, or infinite: a failure, after which no further attempt is made."""
    CANCELLED = "cancelled"
    """It was stopped since its job was finished already; what it had printed is told."""


class Opening(StrEnum):
    """What an attempt to open a campaign has come to; the last three change nothing."""

    CREATED = "created"
    OPENED = "opened"
    CONFLICT = "conflict"
    """It is of another function or method."""
    SCHEMA = "schema"
    """Another version of the protocol wrote it."""
    MOVED = "moved"
    """Another opening came first."""


class Verdict(StrEnum):
    """What became of one settlement."""

    RECORDED = "recorded"
    """It decided the job."""
    AGAIN = "again"
    """It failed or was lost, and the job gets another attempt."""
    STALE = "stale"
    """The attempt did not hold the job any more: dropped."""
    FINISHED = "finished"
    """The job was finished before."""


RELEASED = "released"
"""How an attempt that was given back stands on record: it is no outcome, and no cause of a failure."""
