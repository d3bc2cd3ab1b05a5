"""Defines the states of a job, the methods of execution, and other words that code, keys and output share."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its life. A scheduled one waits for its time, a pending one for a worker."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job is finished."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Method(StrEnum):
    """How workers execute a campaign's jobs."""

    THREAD = "thread"
    PROCESS = "process"
    SUBPROCESS = "subprocess"
    RAY = "ray"
    RQ = "rq"


class Outcome(StrEnum):
    """How an attempt ended; ERROR, TIMEOUT, LOST, NAN and INF are also the `cause` of a failure."""

    OK = "ok"
    STOPPED = "stopped"
    """It returned a result after it was asked to stop early: a success, of which this is the `cause`."""
    GIVEN_BACK = "given back"
    """It has given its job back: the worker releases the lease, and settles nothing."""
    ERROR = "error"
    TIMEOUT = "timeout"
    LOST = "lost"
    NAN = "nan"
    INF = "inf"
    """The result is NaN, or infinite: a failure, after which no further attempt is made."""
    CANCELLED = "cancelled"
    """It was stopped because its job had finished already. It is settled only for its output."""


class Opening(StrEnum):
    """The result of a call that opens a campaign. The last three change nothing."""

    CREATED = "created"
    OPENED = "opened"
    CONFLICT = "conflict"
    """The campaign is of another function or method."""
    SCHEMA = "schema"
    """Another version of the protocol wrote it."""
    MOVED = "moved"
    """Another opening came first."""


class Verdict(StrEnum):
    """The server's answer to one settlement."""

    RECORDED = "recorded"
    """It decided the job."""
    AGAIN = "again"
    """The attempt failed or was lost, and the job gets another one."""
    STALE = "stale"
    """The attempt did not hold the job any more, so the settlement was dropped."""
    FINISHED = "finished"
    """The job had finished before."""


RELEASED = "released"
"""The word on record for an attempt that was given back. It is no outcome, and no cause of a failure."""
