"""Defines what the moves of a campaign take and give: frozen data that knows no connection.

Data of which there is one for each job is a named tuple, which is several times faster to make than a frozen
dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, NamedTuple

from queue_eval.model.states import Opening, Outcome, State, Verdict

GONE = b"GONE"
"""The reply of a script when the campaign of the caller's uid is gone."""

STAMP_DIGITS = 8
"""How many digits, to the base of 36, the time of submission has that stands before each config."""

_MOST_DIGITS = 16
_MAX_TIME_MS = 1e14
"""A damaged time counts as this one, which is later than any clock shows."""

_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}


class StandingReply(NamedTuple):
    """The reply of `open` and `attach`, in the order of ``scripts/include/standing.lua``.

    A damaged number is empty bytes.
    """

    status: bytes
    uid: bytes
    created_ms: int | bytes
    last_id: int | bytes
    finished: int
    tail: bytes
    now_ms: int
    function: bytes
    method: bytes
    source: bytes
    options: bytes
    schema: bytes
    retried: int | bytes

    @property
    def opening(self) -> Opening:
        return Opening(self.status.decode())


@dataclass(frozen=True, slots=True)
class Opened:
    """A campaign at the moment when it was opened or attached."""

    created: bool
    uid: str
    created_ms: int
    opened_ms: int
    last_id: int
    finished: int
    tail: str
    """Newest entry of the result stream. Jobs that finish later have entries after it."""
    function: str
    method: str
    source: str
    options: str
    """Function, method, source hash and options (JSON) as they were before; empty when created."""
    retried: int
    """How many finished jobs the user has ever had run again (`retry`)."""

    @property
    def outstanding(self) -> int:
        return self.last_id - self.finished

    @classmethod
    def of(cls, reply: StandingReply) -> Opened:
        """Raises ValueError for damaged numbers."""
        return cls(
            created=reply.opening is Opening.CREATED,
            uid=reply.uid.decode(),
            created_ms=int(reply.created_ms),
            opened_ms=reply.now_ms,
            last_id=int(reply.last_id),
            finished=reply.finished,
            tail=reply.tail.decode(),
            function=reply.function.decode(),
            method=reply.method.decode(),
            source=reply.source.decode(),
            options=reply.options.decode(),
            retried=int(reply.retried),
        )


class Submission(NamedTuple):
    """A config to be submitted: its JSON, its fingerprint, and with reuse its occurrence (from 1), else 0."""

    config: str
    fingerprint: bytes
    occurrence: int = 0
    tag: str = ""
    """JSON that is kept with the job; empty for none."""


class Enqueued(NamedTuple):
    id: int
    entry: str | None
    """Entry in the result stream when the submission joined a finished job."""
    submitted_ms: int
    """When the job was submitted (Unix time, ms): earlier than this call for a repeated or joined
    submission."""
    tag: bytes = b""
    """The tag (JSON) of a job that was joined; empty where it has none."""


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
    """Whether it is to be started at once. If not, it was prefetched, and waits behind a short job."""
    config: bytes
    slots: int = 1
    """How many slots of the worker it takes."""
    request: str = ""
    """The id of the request that this lease answers. No other call ever has this id."""
    stop: bool = False
    """Whether the job was asked to stop early."""
    checkpoint: str = ""
    """Its newest checkpoint as "attempt save place"; empty where it has none."""

    @property
    def digest(self) -> str:
        """A short hash of the config: 16 hex digits of its SHA-1."""
        return sha1(self.config, usedforsecurity=False).hexdigest()[:16]


class Release(NamedTuple):
    """A lease to be given back without cost to its job."""

    id: int
    attempt: int
    reason: str = ""
    """Why, for the record; empty for an attempt that had only waited on the worker."""
    delayed: bool = False
    """Whether the job is to wait as after a failure, and longer with each time in a row."""
    lacks_time: bool = False
    """Whether the attempt was ended because its worker has no more time."""


class PointBatch(NamedTuple):
    """What an attempt has told of itself since its batch before."""

    id: int
    attempt: int
    request: str
    """The request that the lease of the attempt answers; empty where it is not known."""
    base_ms: int
    """When the attempt began (Unix time, ms), by the server's clock."""
    dropped: int
    """How many points were dropped before they came here, up to the last one of `lines`."""
    looks: bool
    """Whether the attempt has ever looked at `stop_requested`."""
    checkpoint: str
    """Its newest checkpoint as "save place"; empty where it has saved none."""
    lines: bytes
    """One line for each point (see `queue_eval.model.report`), their numbers rising."""


class Printed(NamedTuple):
    """What a running attempt has printed since it was last told of."""

    id: int
    attempt: int
    request: str
    """The request that the lease of the attempt answers; empty where it is not known."""
    total: int
    """How many bytes it has printed so far."""
    text: bytes
    """The last of these, as many as are new, or fewer."""


class Stopped(NamedTuple):
    """The reply to a request to stop early."""

    asked: list[int]
    """Jobs that are asked now, by this call or before."""
    looking: list[int]
    """Those of them whose running attempt has looked at `stop_requested`."""


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
    """Request and digest of the lease, where they are known. After a rollback a server gives the same tokens
    again, and these two tell the leases apart."""


@dataclass(frozen=True, slots=True)
class Settled:
    leases: list[Lease]
    next_due_ms: int | None
    now_ms: int
    revision: int
    verdicts: list[Verdict]
    reserved_slots: int = 0
    """How many slots the worker is to let run free for a wide job; 0 for none."""
    has_other_wide_jobs: bool = False
    """Whether other jobs wait that take several slots or ask for time, and that this worker cannot have
    now."""
    is_prefetch_limited: bool = False
    """Whether narrow jobs wait that this worker cannot have now: it has prefetched its share of them."""

    may_have_shapes: bool = False
    """Whether this worker was seen to be one for jobs that take several slots or ask for time."""
    has_extras: bool = field(default=False, compare=False)
    """Whether any of the leases tells of a stop or of a checkpoint."""

    @classmethod
    def of(cls, reply: Sequence[Any], request: str) -> Settled:
        """From the reply of ``scripts/settle.lua`` to this request."""
        (
            leases, due, now_ms, revision, verdicts, reserved_slots, other_wide_jobs, is_prefetch_limited,
            extras, may_have_shapes,
        ) = reply  # fmt: skip
        more = {
            int(job): (stop == 1, checkpoint.decode())
            for job, stop, checkpoint in zip(extras[::3], extras[1::3], extras[2::3], strict=True)
        }
        given = [
            Lease(int(job), attempt, slots > 0, stamped[STAMP_DIGITS:], slots or 1, request)
            for job, attempt, slots, stamped in zip(
                leases[::4], leases[1::4], leases[2::4], leases[3::4], strict=True
            )
        ]
        if more:
            given = [Lease(*lease[:6], *more.get(lease.id, ())) for lease in given]
        return cls(
            leases=given,
            next_due_ms=due if isinstance(due, int) else None,
            now_ms=now_ms,
            revision=revision,
            verdicts=[_VERDICTS[verdict] for verdict in verdicts],
            reserved_slots=reserved_slots,
            has_other_wide_jobs=other_wide_jobs == 1,
            is_prefetch_limited=is_prefetch_limited == 1,
            may_have_shapes=may_have_shapes == 1,
            has_extras=bool(more),
        )


@dataclass(frozen=True, slots=True)
class Extended:
    finished: list[int]
    taken: list[int]
    revision: int
    unknown: list[tuple[int, int]]
    """Tokens that the worker holds on the server, and did not name in its call."""
    stops: list[int] = field(default_factory=list)
    """Those named in the call that are held, and asked to stop early."""


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
    """How many jobs of a campaign are in each state, all counted at one moment."""

    last_id: int
    counts: dict[State, int]
    paused: bool
    now_ms: int
    workers: list[Attendance]
    newest: str = field(default="0-0", compare=False)
    """The newest entry of the result stream, where it was asked for."""
    retried: int = field(default=0, compare=False)
    """How many finished jobs have ever been run again (`retry`)."""
    total: int | None = field(default=None, compare=False)
    """How many jobs the campaign will have in all, where its driver has said so."""

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Snapshot:
        """From the reply of ``scripts/snapshot.lua``."""
        last_id, scheduled, pending, finished, failed, cancelled, paused, now_ms, *rest = reply
        newest, retried, total, *flat = rest
        workers = [
            Attendance(worker.decode(errors="replace"), round(min(float(expiry_ms), _MAX_TIME_MS)), held)
            for worker, expiry_ms, held in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]
        counts = {
            State.SCHEDULED: scheduled,
            State.PENDING: pending,
            State.RUNNING: sum(worker.running for worker in workers),
            State.SUCCEEDED: finished - failed - cancelled,
            State.FAILED: failed,
            State.CANCELLED: cancelled,
        }
        return cls(
            int(last_id), counts, paused == 1, now_ms, workers, newest.decode(), _whole(retried),
            _whole(total) or None,
        )  # fmt: skip

    @property
    def conserved(self) -> bool:
        """Whether the law of conservation holds: every job is in exactly one place."""
        return self.last_id == sum(self.counts.values())

    @property
    def outstanding(self) -> int:
        return sum(count for state, count in self.counts.items() if not state.is_final)

    @property
    def finished(self) -> int:
        return sum(count for state, count in self.counts.items() if state.is_final)

    @property
    def planned(self) -> int:
        """How many jobs it will have in all, as far as is known."""
        return max(self.total or 0, self.last_id)


def _whole(value: bytes) -> int:
    """The number in a field on which nothing depends but a view; 0 for a damaged one."""
    return int(value) if value.isdigit() and len(value) < _MOST_DIGITS else 0
