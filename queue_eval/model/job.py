"""Defines the job as a driver holds it: plain data that knows no connection."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

from queue_eval.model.states import State


class Job:
    """One requested evaluation of a config.

    `id` counts from 1 in each campaign; `config` is a copy of what was submitted, with ``"id"`` set.
    Unpacks as ``config, result = job``, the config then without ``"id"``.

    Times are by the server's clock. The `state` of an unfinished job is the last one that this driver knows.
    """

    READY: ClassVar[int] = 0
    RUNNING: ClassVar[int] = 1
    DONE: ClassVar[int] = 2

    __slots__ = (
        "attempts", "cause", "config", "duration", "elapsed_sec", "error", "finished_ms", "host", "id",
        "releases", "result", "run_function", "source", "started_ms", "state", "status", "submitted_ms",
        "worker",
    )  # fmt: skip

    def __init__(self, id: int, config: dict[str, Any], run_function: Any) -> None:  # noqa: A002 - DeepHyper's
        self._begin(id, copy.deepcopy(config), run_function)

    def _begin(self, id: int, config: dict[str, Any], run_function: Any) -> None:  # noqa: A002
        self.id = id
        self.config = config
        self.config["id"] = id
        self.run_function = run_function
        self.status = self.READY
        self.state = State.PENDING
        self.result: Any = None
        """What the run function returned; FAIL_RETURN_VALUE, or `failure_value`, when failed or cancelled."""
        self.error: str | None = None
        """Remote traceback of a failure."""
        self.cause: str | None = None
        """Why it failed: "error", "timeout", "lost"; "nan" or "inf": its result is NaN or infinite."""
        self.attempts = 0
        """Executions begun and charged."""
        self.releases = 0
        """Attempts given back without charge, by a drain, a preemption or a worker that could not run it."""
        self.worker: str | None = None
        self.host: str | None = None
        self.source: str | None = None
        """Short hash of the run function's source that gave the result, where known."""
        self.duration = 0.0
        """Submission to completion, in seconds."""
        self.elapsed_sec = 0.0
        """The campaign's creation to completion, in seconds."""
        self.submitted_ms: float | None = None
        self.started_ms: float | None = None
        self.finished_ms: float | None = None

    @classmethod
    def owning(cls, id: int, config: dict[str, Any], run_function: Any) -> Job:  # noqa: A002 - DeepHyper's
        """A job that owns `config` from now on, instead of a copy. The caller must not change it any more."""
        job = cls.__new__(cls)
        job._begin(id, config, run_function)
        return job

    @property
    def submitted_at(self) -> datetime | None:
        return _utc(self.submitted_ms)

    @property
    def started_at(self) -> datetime | None:
        """Start of the last attempt."""
        return _utc(self.started_ms)

    @property
    def finished_at(self) -> datetime | None:
        return _utc(self.finished_ms)

    @property
    def run_s(self) -> float | None:
        """Seconds the last attempt ran."""
        return _seconds(self.started_ms, self.finished_ms)

    @property
    def wait_s(self) -> float | None:
        """Seconds from submission to the start of the last attempt."""
        return _seconds(self.submitted_ms, self.started_ms)

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
        return f"Job(id={self.id}, status={self.status}, state={self.state.value}, config={self.config})"


def _utc(time_ms: float | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)


def _seconds(start_ms: float | None, end_ms: float | None) -> float | None:
    return None if start_ms is None or end_ms is None else max(0.0, end_ms - start_ms) / 1000
