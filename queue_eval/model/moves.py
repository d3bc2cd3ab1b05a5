"""What the moves of a campaign take and give: frozen data, free of connections.

What there is one of for each job is a named tuple: several times faster to make than a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, NamedTuple

from queue_eval.model.states import Outcome, State


@dataclass(frozen=True, slots=True)
class Opened:
    """A campaign as it was at the moment it was opened."""

    created: bool
    uid: str
    created_ms: int
    opened_ms: int
    last_id: int
    finished: int
    tail: str
    """Newest entry of the result stream: what finishes later comes after it."""
    function: str
    method: str
    source: str
    options: str
    """Function, method, source hash and options (JSON) as they were before; empty when created."""
    retried: int
    """How many finished jobs were ever opened again by the user."""

    @property
    def outstanding(self) -> int:
        return self.last_id - self.finished

    @classmethod
    def parse(cls, reply: Sequence[Any]) -> Opened:
        """From the reply of ``standing()`` in ``_shared.lua``. Raises ValueError for damaged numbers."""
        uid, tail, function, method, source, options = (reply[i].decode() for i in (1, 5, 7, 8, 9, 10))
        return cls(
            created=reply[0] == b"created", uid=uid, created_ms=int(reply[2]), opened_ms=reply[6],
            last_id=int(reply[3]), finished=reply[4], tail=tail, function=function, method=method,
            source=source, options=options, retried=int(reply[12]),
        )  # fmt: skip


class Submission(NamedTuple):
    """A config on its way: its JSON, its fingerprint, and its occurrence (from 1) when it may be reused."""

    config: str
    fingerprint: bytes
    occurrence: int = 0


class Enqueued(NamedTuple):
    id: int
    entry: str | None
    """Entry in the result stream when the config joined a finished job."""
    submitted_ms: int
    """Unix time; that of the first call when the server had made it, or another submission joined, before."""


@dataclass(frozen=True, slots=True)
class EnqueueReply:
    now_ms: int
    """The server's time."""
    jobs: list[Enqueued]
    """One per submission, in order."""
    fence: str | None
    """Result-stream entry up to which outcomes of these jobs are out of date (they were retried)."""


class Lease(NamedTuple):
    """The right to run one attempt: fencing token (id, attempt) and the config (JSON)."""

    id: int
    attempt: int
    started: bool
    """False when it was prefetched: it waits behind a short job."""
    config: bytes
    slots: int = 1
    """How many slots of the worker it takes."""
    request: str = ""
    """The request that it answers, which no other lease ever answers."""

    @property
    def digest(self) -> str:
        """Tells its config from others."""
        return sha1(self.config, usedforsecurity=False).hexdigest()[:16]


class Release(NamedTuple):
    """A lease that is given back without cost to its job."""

    id: int
    attempt: int
    reason: str = ""
    """Why, for the record; empty for an attempt that had only waited on the worker."""


class Settlement(NamedTuple):
    """The outcome of one attempt, ready for the server."""

    id: int
    attempt: int
    outcome: Outcome
    run_ms: float
    ended_at: float
    """When the attempt ended, on the worker's monotonic clock (s)."""
    source: str
    body: bytes
    """The result (JSON), or the error (text)."""
    output: bytes = b""
    request: str = ""
    digest: str = ""
    """Those of the lease, where they are known: a server that has gone back in time gives tokens again."""


@dataclass(frozen=True, slots=True)
class Settled:
    leases: list[Lease]
    next_due_ms: int | None
    now_ms: int
    revision: int
    verdicts: list[str]
    reserved_slots: int = 0
    """The slots that the worker is to let run free for a wide job; 0 for none."""
    has_other_wide_jobs: bool = False
    """Whether wide jobs wait that are not for this worker now."""
    prefetch_limited: bool = False
    """Whether narrow jobs wait that are not: it was given its share of them in advance."""


@dataclass(frozen=True, slots=True)
class Extended:
    finished: list[int]
    taken: list[int]
    revision: int
    unknown: list[tuple[int, int]]
    """Tokens that the worker holds and did not name."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    ids: list[int]
    more: bool
    next_expiry_ms: int | None


@dataclass(frozen=True, slots=True)
class Attendance:
    """A worker's part in a campaign."""

    worker: str
    expiry_ms: int
    running: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign's jobs by place, all counted at one moment."""

    last_id: int
    counts: dict[State, int]
    paused: bool
    now_ms: int
    workers: list[Attendance]

    @property
    def conserved(self) -> bool:
        """The law of conservation: every job is in exactly one place."""
        return self.last_id == sum(self.counts.values())

    @property
    def outstanding(self) -> int:
        return sum(count for state, count in self.counts.items() if not state.is_final)
