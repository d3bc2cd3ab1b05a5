"""What is known of an attack when it is over: frozen data, from which invariants are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from queue_eval.chaos.driver import DriverLog
from queue_eval.chaos.settings import Settings
from queue_eval.chaos.workload import Planned, SideLine

# All times are Unix time (s) of this machine, on which everything runs.


SAME_NAME = "same name"
"""Detail of a worker's death: its next life has its name."""

TWICE = "twice"
"""Detail of a drain: it was asked for once more, and what still ran was stopped and given back."""

STOPS = ("drain", "term-all")
"""What a worker that is to end is sent: SIGTERM, alone or with all its descendants."""

REFUSED = "refused"
"""Detail of the start of a second server: it did not start, and the first one is still there."""

CLOCK_S = 0.01
"""The server's records are of whole milliseconds."""


@dataclass(slots=True)
class Fault:
    """A fault that was done."""

    what: str
    victim: str
    at: float
    until: float | None = None
    """When the victim was started again, continued or connected again; None while it is not."""
    workers: tuple[str, ...] = ()
    """The workers that it hit; for a child, those whose child it may have been."""
    detail: str = ""

    @property
    def kind(self) -> str:
        return f"{self.what} {self.victim}"

    @property
    def lasted_s(self) -> float:
        return max(0.0, (self.at if self.until is None else self.until) - self.at)


def write_faults(faults: Sequence[Fault], folder: Path) -> None:
    """For whoever reads the logs: ``faults.jsonl``, one fault on a line."""
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
    """Of the value in the result."""
    releases: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed, lost or released attempt as the server has recorded it."""

    id: int
    attempt: int
    cause: str
    worker: str
    at: float
    text: str = ""
    """The error, or why it was given back."""
    after: float | None = None
    """It was recorded between this and `at`, as an observer saw. None: at `at`, by the server's clock."""


def records_before(failures: Sequence[Failure]) -> dict[int, float]:
    """By `id` of each: when the one before it of the same job was recorded at the earliest, or 0."""
    found: dict[int, float] = {}
    latest: dict[int, float] = {}
    for failure in sorted(failures, key=lambda failure: failure.at):
        found[id(failure)] = latest.get(failure.id, 0.0)
        latest[failure.id] = failure.at if failure.after is None else failure.after
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """The campaign at one moment, by a connection of its own."""

    at: float
    last_id: int
    placed: int
    """Jobs in all places together."""
    pending: int
    finished: int
    running: Mapping[str, int]
    """By worker that attends the campaign."""
    memory: int
    """Of the server, in bytes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of results.csv."""

    id: int
    x: int
    token: str
    digest: str
    """Of the value; "" where the job failed."""


@dataclass(frozen=True)
class Evidence:
    """All of it."""

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
    """Entry in the result stream by job, at the end."""
    failures: Sequence[Failure]
    samples: Sequence[Sample]
    faults: Sequence[Fault]
    stalls: Sequence[tuple[float, float]]
    """When this machine stood still."""
    casualties: Sequence[str]
    """Processes that ended without having been killed."""
    ended_at: float
    """When the campaign came to its end, or was given up."""
    blind: Sequence[str] = ()
    """What kept the observer from seeing all."""
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What was left over when all had ended, by what it is."""
    has_ended: bool = True
    """Whether the campaign came to its end."""
    calm_s: float = 0.0
    """How long it took after the last fault."""
    final_memory: int = 0
    last_id: int = 0
