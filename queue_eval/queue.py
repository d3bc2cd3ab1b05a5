"""A campaign on the server: one method per script, typed replies, nothing cached.

Every method may be called again after a lost reply (`Link` does it): the scripts are made for it.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from queue_eval import keys as names
from queue_eval.connection import Link
from queue_eval.errors import CampaignConflictError, CampaignNotFoundError, ServerRefusedError
from queue_eval.keys import Keys, check_campaign_name
from queue_eval.result_stream import ResultEntry, entry_order, parse_entries
from queue_eval.states import Outcome, State

SCHEMA_VERSION = "1"
STAMP_DIGITS = 13
PAGE = 1000
_SUBMIT_BYTES = 4 * 2**20


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
        """From the reply of ``standing()`` in ``_shared.lua``."""
        uid, tail, function, method, source, options = (reply[i].decode() for i in (1, 5, 7, 8, 9, 10))
        return cls(
            created=reply[0] == b"created", uid=uid, created_ms=reply[2], opened_ms=reply[6],
            last_id=reply[3], finished=reply[4], tail=tail, function=function, method=method, source=source,
            options=options, retried=reply[12],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submission:
    """A config on its way: its JSON, its fingerprint, and its occurrence (from 1) when it may be reused."""

    config: str
    fingerprint: bytes
    occurrence: int = 0


@dataclass(frozen=True, slots=True)
class Enqueued:
    id: int
    entry: str | None
    """Entry in the result stream when the config joined a finished job."""


@dataclass(frozen=True, slots=True)
class EnqueueReply:
    now_ms: int
    """The server's time."""
    jobs: list[Enqueued]
    """One per submission, in order."""
    fence: str | None
    """Result-stream entry up to which outcomes of these jobs are out of date (they were retried)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run one attempt: fencing token (id, attempt) and the config (JSON)."""

    id: int
    attempt: int
    started: bool
    """False when it was prefetched: it waits behind a short job."""
    config: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
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


@dataclass(frozen=True, slots=True)
class Settled:
    leases: list[Lease]
    next_due_ms: int | None
    now_ms: int
    revision: int
    verdicts: list[str]


@dataclass(frozen=True, slots=True)
class Extended:
    finished: list[int]
    taken: list[int]
    revision: int


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


class CampaignQueue:
    """The moves of one campaign. `uid` tells it from an earlier one of the same name."""

    def __init__(self, link: Link, campaign: str, uid: str) -> None:
        self.link = link
        self.campaign = campaign
        self.uid = uid
        self.keys = Keys(campaign)

    # Opening ------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, link: Link, campaign: str, fields: Mapping[str, str | bytes | int | float], *,
        accept_change: bool,
    ) -> tuple[CampaignQueue, Opened]:  # fmt: skip
        """Create or continue a campaign whose meta is to hold `fields`.

        Raises CampaignConflictError when it is of another function or method and `accept_change` is not
        set, ServerRefusedError when another version of the protocol wrote it; then nothing has changed.
        """
        check_campaign_name(campaign)
        keys = Keys(campaign)
        flat = list(itertools.chain.from_iterable(fields.items()))
        reply = link.run_script(
            "open", keys.columns, secrets.token_hex(8), SCHEMA_VERSION, int(accept_change), *flat
        )
        status, schema = reply[0].decode(), reply[11].decode()
        opened = Opened.parse(reply)
        if status == "schema":
            raise ServerRefusedError(
                f"campaign {campaign!r} was written by protocol version {schema}, this is {SCHEMA_VERSION}; "
                "use the queue_eval that created it, or another campaign name"
            )
        if status == "conflict":
            raise CampaignConflictError(
                f"campaign {campaign!r} belongs to {opened.function} with method {opened.method!r}, not to "
                f"{fields['function']!s} with method {fields['method']!r}; "
                'use another campaign name, or on_change="accept"'
            )
        # After the fact, so that a registered campaign exists; a crash in between is healed by reopening.
        link.call(lambda client: client.zadd(names.CAMPAIGNS, {campaign: reply[2]}))
        queue = cls(link, campaign, opened.uid)
        queue.notify("open")
        return queue, opened

    @classmethod
    def attach(cls, link: Link, campaign: str) -> tuple[CampaignQueue, dict[str, bytes]]:
        """An existing campaign and its meta. Raises CampaignNotFoundError."""
        check_campaign_name(campaign)
        raw = link.call(lambda client: client.hgetall(Keys(campaign).meta))
        meta = {field.decode(): value for field, value in raw.items()}
        if "uid" not in meta:
            raise CampaignNotFoundError(
                f"there is no campaign {campaign!r} on this server; see: queue-eval campaigns"
            )
        if meta.get("schema", b"").decode() != SCHEMA_VERSION:
            raise ServerRefusedError(
                f"campaign {campaign!r} was written by another protocol version "
                f"({meta.get('schema', b'').decode()!r}, this is {SCHEMA_VERSION})"
            )
        return cls(link, campaign, meta["uid"].decode()), meta

    def standing(self) -> Opened:
        """The campaign at this moment, as `open` sees it, without changing anything."""
        reply = self.link.run_script("attach", self.keys.columns)
        if not reply or reply[1].decode() != self.uid:
            raise CampaignNotFoundError(f"campaign {self.campaign!r} was purged")
        return Opened.parse(reply)

    def retried(self) -> int:
        """How many finished jobs were ever opened again by the user."""
        return int(self.link.call(lambda client: client.hget(self.keys.meta, "retried")) or 0)

    def meta(self) -> dict[str, bytes]:
        return self.attach(self.link, self.campaign)[1]

    # Moves --------------------------------------------------------------------------------------------

    def enqueue(
        self, driver: str, sequence: int, submissions: Sequence[Submission], *,
        reuse: bool, priority: int = 0, delay_ms: int = 0,
    ) -> EnqueueReply:  # fmt: skip
        """Send one batch (see `batches`).

        `sequence` grows with each batch of a `driver`: a repeated one adds nothing twice.
        """
        arguments: list[Any] = [driver, sequence, int(reuse), priority, delay_ms]
        for s in submissions:
            arguments += (s.config, s.fingerprint, s.occurrence) if reuse else (s.config, s.fingerprint)
        now_ms, ids, entries, fence = self._run("enqueue", *arguments)
        return EnqueueReply(
            now_ms,
            [Enqueued(int(i), e.decode() or None) for i, e in zip(ids, entries, strict=True)],
            fence.decode() or None,
        )

    def settle(
        self, worker: str, settlements: Sequence[Settlement], *,
        lease_ms: int, request: str, room: int, prefetch: int, now: float,
    ) -> Settled:  # fmt: skip
        """Settle attempts and lease the next jobs; extends the worker's lease unless `lease_ms` is 0."""
        arguments: list[Any] = [worker, lease_ms, request, room, prefetch]
        for s in settlements:
            age_ms = max(0, round((now - s.ended_at) * 1000))
            arguments += (s.id, s.attempt, s.outcome.value, f"{s.run_ms:.6g}", age_ms)
            arguments += (s.source, s.body, s.output)
        leases, due, now_ms, revision, verdicts = self._run("settle", *arguments)
        return Settled(
            leases=[
                Lease(int(leases[i]), leases[i + 1], leases[i + 2] == 1, leases[i + 3][STAMP_DIGITS:])
                for i in range(0, len(leases), 4)
            ],
            next_due_ms=int(due) if due != b"" else None,
            now_ms=now_ms,
            revision=revision,
            verdicts=[verdict.decode() for verdict in verdicts],
        )

    def extend(self, worker: str, lease_ms: int, tokens: Iterable[tuple[int, int]]) -> Extended:
        """Extend the lease; say which of the tokens (id, attempt) are finished or no longer this worker's."""
        finished, taken, revision = self._run(
            "extend", worker, lease_ms, *itertools.chain.from_iterable(tokens)
        )
        return Extended([int(i) for i in finished], [int(i) for i in taken], revision)

    def release(self, worker: str, tokens: Iterable[tuple[int, int, bool]], *, leave: bool = False) -> int:
        """Give back tokens (id, attempt, whether its execution had begun); `leave` ends the attendance."""
        flat = [int(v) for token in tokens for v in token]
        return int(self._run("release", worker, int(leave), *flat))

    def reclaim(self, *, grace_ms: int, worker: str = "", page: int = 200) -> Reclaimed:
        """Take back a page of what an expired (or the named, dead) worker holds."""
        ids, more, expiry = self._run("reclaim", grace_ms, page, worker)
        return Reclaimed([int(i) for i in ids], more == 1, int(expiry) if expiry else None)

    def cancel(self, ids: Iterable[int]) -> list[int]:
        """Cancel those that are not finished; returns which. Tells workers to look."""
        cancelled = [int(i) for page in pages(ids, PAGE) for i in self._run("cancel", *page)]
        if cancelled:
            self.notify("cancel")
        return cancelled

    def retry(self, ids: Iterable[int]) -> list[int]:
        """Run failed or cancelled jobs again; returns which."""
        return [int(i) for page in pages(ids, PAGE) for i in self._run("retry", *page)]

    def pause(self, paused: bool) -> bool:
        """Whether that changed anything."""
        return bool(self._run("pause", int(paused)))

    def purge(self) -> None:
        """Delete the campaign whole."""
        # First the registry: a campaign that is half gone must not be listed.
        self.link.call(lambda client: client.zrem(names.CAMPAIGNS, self.campaign))
        with suppress(CampaignNotFoundError):  # the first call did it, whose reply was lost
            self._run("purge")
        self.notify("purge")

    # Reading ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        reply = self.link.run_script("snapshot", self.keys.columns)
        if not reply:
            raise CampaignNotFoundError(f"campaign {self.campaign!r} was purged")
        last_id, scheduled, pending, finished, failed, cancelled, paused, now_ms = reply[:8]
        workers = [
            Attendance(reply[i].decode(), int(reply[i + 1]), reply[i + 2]) for i in range(8, len(reply), 3)
        ]
        counts = {
            State.SCHEDULED: scheduled,
            State.PENDING: pending,
            State.RUNNING: sum(worker.running for worker in workers),
            State.SUCCEEDED: finished - failed - cancelled,
            State.FAILED: failed,
            State.CANCELLED: cancelled,
        }
        return Snapshot(last_id, counts, paused == 1, now_ms, workers)

    def read_after(self, cursor: str, count: int = PAGE) -> list[ResultEntry]:
        """Up to `count` entries of the result stream after `cursor`, without blocking."""
        raw = self.link.call(lambda client: client.xrange(self.keys.results, f"({cursor}", "+", count))
        return parse_entries(raw)

    def read_until(self, cursor: str, tail: str, count: int = PAGE) -> list[ResultEntry]:
        """Up to `count` entries of the result stream after `cursor`, `tail` being the last."""
        raw = self.link.call(lambda client: client.xrange(self.keys.results, f"({cursor}", tail, count))
        return parse_entries(raw)

    def newest(self, count: int) -> list[ResultEntry]:
        raw = self.link.call(lambda client: client.xrevrange(self.keys.results, count=count))
        return parse_entries(raw)

    def entries(self, ids: Sequence[str]) -> list[ResultEntry]:
        """The result-stream entries with these entry ids, in the order given; best when they are sorted."""
        found: dict[str, ResultEntry] = {}
        for page in pages(ids, PAGE):
            # Whoever resumes a campaign asks for almost all of its log: one range, and single entries for the
            # rest.
            first, last = min(page, key=entry_order), max(page, key=entry_order)
            found |= {entry.entry: entry for entry in self._range(first, last, 2 * len(page))}
            found |= {entry.entry: entry for entry in self._each([e for e in page if e not in found])}
        return [found[entry] for entry in ids if entry in found]

    def _range(self, first: str, last: str, count: int) -> list[ResultEntry]:
        raw = self.link.call(lambda client: client.xrange(self.keys.results, first, last, count))
        return parse_entries(raw)

    def _each(self, ids: Sequence[str]) -> list[ResultEntry]:
        def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry in ids:
                pipeline.xrange(self.keys.results, entry, entry)
            replies: list[Any] = pipeline.execute()
            return replies

        return [entry for raw in self.link.call(operation) for entry in parse_entries(raw)] if ids else []

    def index_of(self, ids: Sequence[int]) -> list[str | None]:
        """Entry in the result stream of each finished job, None for the others."""
        return [v.decode() if v is not None else None for v in self._hmget(self.keys.index, ids)]

    def configs_of(self, ids: Sequence[int]) -> list[tuple[int, bytes] | None]:
        """(submission time in ms, config JSON) of each job; None where there is no such job."""
        return [
            (int(v[:STAMP_DIGITS]), v[STAMP_DIGITS:]) if v is not None else None
            for v in self._hmget(self.keys.configs, ids)
        ]

    def outputs_of(self, ids: Sequence[int]) -> list[bytes | None]:
        return self._hmget(self.keys.column("outputs"), ids)

    def hosts_of(self, workers: Sequence[str]) -> list[str | None]:
        """Host on which each worker runs, as it said when it first attended the campaign."""
        if not workers:
            return []
        raw = self.link.call(lambda client: client.hmget(self.keys.column("roster"), workers))
        return [str(json.loads(v).get("host")) if v is not None else None for v in raw]

    def failed_ids(self) -> list[int]:
        key = self.keys.column("failed")
        members = self.link.call(lambda client: list(client.sscan_iter(key, count=PAGE)))
        return sorted(map(int, members))

    def outstanding(self) -> Iterator[tuple[int, State, str]]:
        """(id, state, worker) of every unfinished job, in pages; jobs that move meanwhile may be missed or
        come twice, so callers that need all of them ask again."""
        link, keys = self.link, self.keys
        for column, state in (("scheduled", State.SCHEDULED), ("pending", State.PENDING)):
            start = 0
            while page := self._rank_page(keys.column(column), start):
                yield from ((int(i), state, "") for i in page)
                start += PAGE
        for name in link.call(lambda client: client.zrange(keys.column("workers"), 0, -1)):
            worker = name.decode()
            yield from ((int(i), State.RUNNING, worker) for i in self._held_by(worker))

    def failures(self, job: int) -> list[dict[str, str]]:
        """Every failed or lost attempt of a job that is still on record, oldest first."""
        found: list[dict[str, str]] = []
        cursor = "-"
        wanted = str(job).encode()
        while page := self._failures_from(cursor):
            for entry, fields in page:
                if fields.get(b"job") == wanted:
                    text = {k.decode(): v.decode(errors="replace") for k, v in fields.items()}
                    found.append(text | {"at_ms": entry.decode().split("-")[0]})
            cursor = f"({page[-1][0].decode()}"
        return found

    def notify(self, what: str) -> None:
        """Ask workers to look now rather than at their next extension."""
        notice = {"what": what, "campaign": self.campaign}
        self.link.call(
            lambda client: client.xadd(names.NOTICES, notice, maxlen=1000, approximate=True)
        )

    # ----------------------------------------------------------------------------------------------------

    def _hmget(self, key: str, ids: Sequence[int]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for page in pages(ids, PAGE):
            values += self._hmget_page(key, page)
        return values

    # One call each, so that what a loop repeats after a lost reply is bound to this turn's page.

    def _hmget_page(self, key: str, ids: Sequence[int]) -> list[bytes | None]:
        return self.link.call(lambda client: client.hmget(key, ids))

    def _rank_page(self, key: str, start: int) -> list[bytes]:
        return self.link.call(lambda client: client.zrange(key, start, start + PAGE - 1))

    def _held_by(self, worker: str) -> list[bytes]:
        return self.link.call(lambda client: client.hkeys(self.keys.held(worker)))

    def _failures_from(self, cursor: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return self.link.call(lambda client: client.xrange(self.keys.column("failures"), cursor, "+", PAGE))

    def _run(self, script: str, *arguments: Any) -> Any:
        reply = self.link.run_script(script, self.keys.columns, self.uid, *arguments)
        if reply == b"GONE":
            raise CampaignNotFoundError(f"campaign {self.campaign!r} was purged")
        return reply


def batches(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """Split submissions so that each call stays short on the server."""
    batch: list[Submission] = []
    size = 0
    for submission in submissions:
        if batch and (len(batch) == PAGE or size + len(submission.config) > _SUBMIT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(submission)
        size += len(submission.config)
    if batch:
        yield batch


def pages(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page
