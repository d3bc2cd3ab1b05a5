"""The evidence of an attack when it is over: frozen data, from which the invariants are judged."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from queue_eval.chaos.driver import DriverLog
from queue_eval.chaos.inside_work import Told
from queue_eval.chaos.settings import Settings
from queue_eval.chaos.workload import Planned, SideLine

# All times are Unix time (s) of this machine, on which everything runs.


SAME_NAME = "same name"
"""Detail of a worker's death: its next life has the same name."""

TWICE = "twice"
"""Detail of a drain: the worker was asked twice, so it stopped its attempts and gave them back."""

STOPS = ("drain", "term-all")
"""Faults that stop a worker by SIGTERM: sent to it alone, or to it and all its descendants."""

REFUSED = "refused"
"""Detail of the start of a second server: it did not start, and the first one is still there."""

CLOCK_S = 0.01
"""The tolerance when times are compared: the server records whole milliseconds."""


@dataclass(slots=True)
class Fault:
    """A fault that was injected."""

    what: str
    victim: str
    at: float
    until: float | None = None
    """When the victim was started again, continued or connected again; None before that."""
    workers: tuple[str, ...] = ()
    """The workers that it hit. For a child: the workers that it may belong to."""
    detail: str = ""

    @property
    def kind(self) -> str:
        return f"{self.what} {self.victim}"

    @property
    def lasted_s(self) -> float:
        return max(0.0, (self.at if self.until is None else self.until) - self.at)


def write_faults(faults: Sequence[Fault], folder: Path) -> None:
    """Write ``faults.jsonl`` for readers of the logs: one fault on a line."""
    text = "".join(json.dumps(asdict(fault)) + "\n" for fault in faults)
    (folder / "faults.jsonl").write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the result stream."""

    entry: str
    id: int
    state: str
    cause: str
    worker: str
    attempts: int
    token: str
    digest: str
    """Digest of the value in the result."""
    releases: int = 0
    has_stopped: bool = False
    """Whether it has succeeded early, as asked."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed, lost or released attempt as the server has recorded it."""

    id: int
    attempt: int
    cause: str
    worker: str
    at: float
    text: str = ""
    """The error, or the reason of the release."""
    after: float | None = None
    """It was recorded between `after` and `at`, by the observer's clock. None: at `at`, by the server's."""


def records_before(failures: Sequence[Failure]) -> dict[int, float]:
    """For each failure, by its Python `id`: when the failure before it of the same job was recorded at the
    earliest; 0 without one."""
    found: dict[int, float] = {}
    latest: dict[int, float] = {}
    for failure in sorted(failures, key=lambda failure: failure.at):
        found[id(failure)] = latest.get(failure.id, 0.0)
        latest[failure.id] = failure.at if failure.after is None else failure.after
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """The campaign at one moment, as the observer saw it."""

    at: float
    last_id: int
    placed: int
    """How many jobs all places hold together."""
    pending: int
    finished: int
    running: Mapping[str, int]
    """How many jobs each worker runs that attends the campaign."""
    memory: int
    """Memory of the server (bytes)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that was asked to stop early, and was not finished."""

    id: int
    at: float
    """When the server had answered."""
    attempt: int
    """The number of its newest lease then, or of a later one."""


@dataclass(frozen=True, slots=True)
class Point:
    """One report as it stands on the server."""

    number: int
    attempt: int
    """The attempt under which it stands."""
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of results.csv."""

    id: int
    x: int
    token: str
    digest: str
    """Digest of the value; "" when the job failed."""


@dataclass(frozen=True)
class Evidence:
    """All evidence of one attack."""

    settings: Settings
    planned: Sequence[Planned]
    side: Sequence[SideLine]
    driver: DriverLog
    table: Sequence[Row]
    entries: Sequence[Entry]
    """The result stream at the end."""
    seen: Mapping[str, Entry]
    """Each entry of the result stream as it was when it was first seen."""
    index: Mapping[int, str]
    """The entry in the result stream of each job, at the end."""
    failures: Sequence[Failure]
    samples: Sequence[Sample]
    told: Sequence[Told]
    """What the executions have logged of what they told and were told."""
    points: Mapping[int, Sequence[Point]]
    """The reports on the server, by job."""
    faults: Sequence[Fault]
    stalls: Sequence[tuple[float, float]]
    """From when to when this machine stood still."""
    casualties: Sequence[str]
    """Processes that ended without having been killed."""
    ended_at: float
    """When the campaign ended, or was given up."""
    blind: Sequence[str] = ()
    """Why the observer has not seen everything."""
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Leftovers when all had ended, by their kind."""
    has_ended: bool = True
    """Whether the campaign came to its end."""
    calm_s: float = 0.0
    """How long the campaign took to end after the last fault."""
    final_memory: int = 0
    asked: Sequence[Asked] = ()
    """Requests to stop early, in the order of time."""
    tried_to_stop: Collection[int] = ()
    """The jobs in requests to stop early, also in those without an answer."""
    checkpoints: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """The newest checkpoint that each job still has on the disk: see `inside_work.read_checkpoint`."""
    last_id: int = 0
