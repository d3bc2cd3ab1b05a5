"""Reads a campaign on the server: all queries that change nothing. It caches nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self

from queue_eval.campaign.gone import campaign_gone
from queue_eval.campaign.keys import Keys, check_campaign_name
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.result_stream import ResultEntry, entry_order, is_entry, parse_entries
from queue_eval.campaign.scripts import script
from queue_eval.errors import (
    CampaignNotFoundError,
    DamagedError,
    NodeAwayError,
    QueueEvalError,
    ServerRefusedError,
)
from queue_eval.model.codec import decode
from queue_eval.model.live_output import LiveHead, LiveOutput, parse_live, parse_live_head
from queue_eval.model.moves import GONE, STAMP_DIGITS, Opened, Snapshot, StandingReply
from queue_eval.model.report import Report, ReportHead, parse_block, parse_head
from queue_eval.model.shape import NARROW, Shape
from queue_eval.model.states import State
from queue_eval.transport.link import Link, damaged

SCHEMA_VERSION = "2"

_BLOCKS_PAGE = 50
"""How many blocks of a job's reports one call reads at most."""

_TIME_LACK = re.compile(rb"(\d{1,10}) \d{1,13}")
_DISTANT = re.compile(rb"(\d{1,14}) (\d{1,14})")
_CHECKPOINT = re.compile(rb"\d{1,14} \d{1,14} [!-~]{1,100}")


class Failure(NamedTuple):
    """An attempt that came to nothing, as it is on record."""

    job: int
    attempt: int
    output: bytes


@contextmanager
def reading(campaign: str) -> Iterator[None]:
    """Raise DamagedError for errors within: what the server holds cannot be parsed, so we have not written
    it."""
    try:
        yield
    except QueueEvalError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise damaged(f"campaign {campaign!r}: {type(error).__name__}: {error}") from error


class CampaignView:
    """The reading half of `CampaignCommands`.

    `uid` tells the campaign from an earlier one of the same name.
    """

    def __init__(self, link: Link, campaign: str, uid: str) -> None:
        self.link = link
        self.campaign = campaign
        self.uid = uid
        self.keys = Keys(campaign)

    @classmethod
    def attach(cls, link: Link, campaign: str) -> tuple[Self, dict[str, bytes]]:
        """An existing campaign and its meta. Raises CampaignNotFoundError."""
        check_campaign_name(campaign)
        raw = link.call(lambda client: client.hgetall(Keys(campaign).meta))
        meta = {_text(field): value for field, value in raw.items()}
        if "uid" not in meta:
            raise CampaignNotFoundError(
                f"there is no campaign {campaign!r} on this server; see: queue-eval campaigns"
            )
        if (schema := _text(meta.get("schema", b""))) != SCHEMA_VERSION:
            raise ServerRefusedError(
                f"campaign {campaign!r} was written by protocol version {schema[:20]!r}, this is "
                f"{SCHEMA_VERSION}; use the queue_eval that created it"
            )
        with reading(campaign):
            int(meta["created_ms"]), int(meta["last_id"]), int(meta["revision"])
            return cls(link, campaign, meta["uid"].decode()), meta

    def standing(self) -> Opened:
        """The campaign at this moment, as `open` sees it, without changing anything."""
        values = self.link.run_script(script("attach"), self.keys.columns)
        reply = StandingReply(*values) if values else None
        if reply is None or reply.uid.decode() != self.uid:
            raise campaign_gone(self.link, self.campaign)
        with reading(self.campaign):
            return Opened.of(reply)

    def retried(self) -> int:
        """How many finished jobs the user has ever had run again (`retry`)."""
        with reading(self.campaign):
            return int(self.link.call(lambda client: client.hget(self.keys.meta, "retried")) or 0)

    def meta(self) -> dict[str, bytes]:
        return self.attach(self.link, self.campaign)[1]

    def meta_of(self, fields: Sequence[str]) -> dict[str, bytes]:
        """These fields of the meta, where they are there. The whole of it may be large: it holds code."""
        values = self.link.call(lambda client: client.hmget(self.keys.meta, fields))
        return {name: value for name, value in zip(fields, values, strict=True) if value is not None}

    def snapshot(self, *, with_newest: bool = False) -> Snapshot:
        """Counts of all jobs at one moment; with `with_newest` also the newest entry of the result stream."""
        more = (1,) if with_newest else ()
        reply = self.link.run_script(script("snapshot"), self.keys.columns, *more)
        if not reply:
            raise campaign_gone(self.link, self.campaign)
        with reading(self.campaign):
            return Snapshot.of(reply)

    def kept_summary(self) -> bytes | None:
        """What the last viewer has kept for the next one; None where nothing is."""
        key = self.keys.column("summary")
        uid, kept = self._unless_damaged(lambda client: client.hmget(key, "uid", "kept"), (None, None))
        return kept if uid == self.uid.encode() else None

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
        """The entries of the result stream with these entry ids, in the order given. Sorted ids are read in
        fewer calls."""
        found: dict[str, ResultEntry] = {}
        for page in pages([entry for entry in ids if is_entry(entry)], PAGE):
            # A driver that resumes a campaign asks for almost all entries. So one range is read, and then the
            # entries that were not in it.
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
        """The entry in the result stream of each finished job; None for the others."""
        return [_text(v) if v is not None else None for v in self._hmget(self.keys.index, ids)]

    def configs_of(self, ids: Sequence[int]) -> list[tuple[int, bytes] | None]:
        """(submission time in ms, config JSON) of each job; None where there is no such job."""
        return [parse_config(v) if v is not None else None for v in self._hmget(self.keys.configs, ids)]

    def outputs_of(self, ids: Sequence[int]) -> list[bytes | None]:
        return self._hmget(self.keys.column("outputs"), ids)

    def live_outputs_of(self, ids: Sequence[int]) -> list[LiveOutput | None]:
        """The newest part of what each job's running attempt has printed; None where there is nothing."""
        return [parse_live(value) for value in self._extra("live", ids)]

    def live_heads(self) -> dict[int, LiveHead]:
        """Of each job whose running attempt has printed something: how much."""
        found: dict[int, LiveHead] = {}
        cursor = 0
        while True:
            cursor, page = self._scan_page(self.keys.column("live_heads"), cursor)
            for name, value in page.items():
                if name.isdigit() and (head := parse_live_head(value)) is not None:
                    found[int(name)] = head
            if cursor == 0:
                return found

    def reports_of(self, job: int, after: tuple[int, int] = (0, 0)) -> list[tuple[int, Report]]:
        """(number, report) of each kept report of a job, in the order of arrival: those behind the report of
        this attempt and number."""
        while True:
            (head,) = self.report_heads([job])
            if head is None or (head.attempt, head.number) <= after:
                return []
            found: list[list[tuple[int, Report]]] = []
            for last in range(head.blocks, 0, -_BLOCKS_PAGE):
                first = max(1, last - _BLOCKS_PAGE + 1)
                page, head_now = self._report_blocks(job, first, last)
                points = [point for block in page if block is not None for point in parse_block(block)]
                new = [point for point in points if (point[1].attempt, point[0]) > after]
                found.append(new)
                if len(new) < len(points):
                    break
            else:
                head_now = head if not head.blocks else head_now
            # Points were thinned out meanwhile, and stand in other blocks now.
            if head_now is None or head_now.points >= head.points:
                return [point for page in reversed(found) for point in page]

    def report_heads(self, ids: Sequence[int]) -> list[ReportHead | None]:
        """What is known of the reports of each job; None where nothing is."""
        return [parse_head(value) for value in self._extra("report_heads", ids)]

    def reporting_ids(self) -> Iterator[int]:
        """The jobs that have reports, in no order. One that changes meanwhile may come twice."""
        key = self.keys.column("report_heads")
        cursor = 0
        while True:
            cursor, page = self._scan_page(key, cursor)
            for name, value in page.items():
                head = parse_head(value)
                if name.isdigit() and head is not None and head.points:
                    yield int(name)
            if cursor == 0:
                return

    def newest_hint(self) -> str:
        """The cursor for `reported_after` of this moment."""
        raw = self._unless_damaged(lambda client: client.xrevrange(self.keys.reported, count=1), [])
        return _text(raw[0][0]) if raw else "0-0"

    def reported_after(self, cursor: str) -> tuple[set[int] | None, str]:
        """The jobs that have new reports since `cursor`, and the cursor of now.

        None in place of the jobs when the server does not know any more which they are: any may have.
        """
        ids: set[int] = set()
        is_known, page = self._hints(cursor)
        if not is_known:
            newest = self.newest_hint()
            return (None if newest != cursor else ids), newest
        while page:
            for _, fields in page:
                ids |= set(_numbers(fields.get(b"ids", b"").split(b" ")))
            cursor = _text(page[-1][0])
            page = self._hints(cursor)[1] if len(page) == PAGE else []
        return ids, cursor

    def checkpoints_of(self, ids: Sequence[int]) -> list[str | None]:
        """The newest checkpoint of each job, as "attempt save place"; None where it has none."""
        values = self._extra("checkpoints", ids)
        return [_text(v) if v is not None and _CHECKPOINT.fullmatch(v) else None for v in values]

    def distant_of(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """(since when (ms) it is left to workers that see its checkpoint, or 0; the attempt that began
        without it, or 0) of each job."""
        matches = [_DISTANT.fullmatch(v) if v else None for v in self._extra("distant", ids)]
        return [(int(match[1]), int(match[2])) if match else (0, 0) for match in matches]

    def give_backs(self, least: int = 10) -> list[tuple[int, int]]:
        """(id, times) of jobs that were given back so often in a row without a new checkpoint."""
        key = self.keys.column("give_backs")
        found = self._unless_damaged(
            lambda client: client.zrangebyscore(key, least, "(inf", withscores=True), []
        )
        return [(int(name), int(times)) for name, times in found if name.isdigit()]

    def stops_of(self, ids: Sequence[int]) -> list[bool]:
        """Whether each job is asked to stop early."""
        return [value is not None for value in self._extra("stops", ids)]

    def hosts_of(self, workers: Sequence[str]) -> list[str | None]:
        """The host of each worker, as it said when it first attended the campaign; None where unknown."""
        if not workers:
            return []
        raw = self.link.call(lambda client: client.hmget(self.keys.column("roster"), workers))
        return [_host(v) if v is not None else None for v in raw]

    def shapes(self) -> list[Shape]:
        """The shapes, but for the narrow one, that jobs of the campaign have, or had."""
        members = self.link.call(lambda client: client.zrange(self.keys.column("wide"), 0, -1))
        return [shape for member in members if (shape := Shape.parse(_text(member))) is not None]

    def pending_shapes(self) -> list[Shape]:
        """Those of them of which jobs are pending."""
        shapes = self.shapes()
        counts = self._count_pending(shapes) if shapes else []
        return [shape for shape, count in zip(shapes, counts, strict=True) if count]

    def shapes_of(self, ids: Sequence[int]) -> list[Shape]:
        """What each job needs of a worker. A damaged shape reads as the narrow one."""
        values = self._hmget(self.keys.column("widths"), ids)
        return [(Shape.parse(_text(v)) if v else None) or NARROW for v in values]

    def time_lacks_of(self, ids: Sequence[int]) -> list[int]:
        """How often in a row each job was given back for lack of time."""
        matches = [_TIME_LACK.fullmatch(v) if v else None for v in self._extra("time_lacks", ids)]
        return [int(match[1]) if match else 0 for match in matches]

    def may_retry(self, job: int) -> bool:
        """Whether a finished job has failed, so that `retry` runs it again. True if that cannot be told."""
        key = self.keys.column("failed")
        with suppress(DamagedError, NodeAwayError):
            return bool(self.link.call(lambda client: client.sismember(key, str(job))))
        return True

    def failed_ids(self) -> list[int]:
        key = self.keys.column("failed")
        members = self.link.call(lambda client: list(client.sscan_iter(key, count=PAGE)))
        return sorted(_numbers(members))

    def outstanding(self) -> Iterator[tuple[int, State, str]]:
        """(id, state, worker) of every unfinished job.

        A job that moves meanwhile may be missed, or come twice. So callers that need all of them ask again.
        """
        link, keys = self.link, self.keys
        places = [(keys.column("scheduled"), State.SCHEDULED)]
        places += [(keys.pending_of(shape), State.PENDING) for shape in (NARROW, *self.shapes())]
        for key, state in places:
            start = 0
            while page := self._rank_page(key, start):
                yield from ((i, state, "") for i in _numbers(page))
                start += PAGE
        for name in link.call(lambda client: client.zrange(keys.column("workers"), 0, -1)):
            worker = _text(name)
            yield from ((i, State.RUNNING, worker) for i in _numbers(self._held_by(worker)))

    def running_ids(self, snapshot: Snapshot, most: int) -> list[int]:
        """Up to `most` jobs that the workers of a snapshot hold, in no order."""
        found: list[int] = []
        for worker in snapshot.workers:
            if worker.running and len(found) < most:
                found += _numbers(self._held_by(worker.worker))
        return found[:most]

    def failures(self, job: int) -> list[dict[str, str]]:
        """Every failed or lost attempt of a job that is still on record, oldest first."""
        found: list[dict[str, str]] = []
        cursor = "-"
        wanted = str(job).encode()
        while page := self._failures_from(cursor):
            for entry, fields in page:
                if fields.get(b"job") == wanted:
                    text = {_text(k): _text(v) for k, v in fields.items()}
                    found.append(text | {"at_ms": entry.decode().split("-")[0]})
            cursor = f"({page[-1][0].decode()}"
        return found

    def newest_failure(self) -> str:
        """The cursor for `failures_after` of this moment."""
        key = self.keys.column("failures")
        raw = self._unless_damaged(lambda client: client.xrevrange(key, count=1), [])
        return _text(raw[0][0]) if raw else "0-0"

    def failures_after(self, cursor: str) -> tuple[list[Failure], str]:
        """A page of the attempts that came to nothing since `cursor`, and the cursor behind them."""
        try:
            page = self._failures_from(f"({cursor}")
        except DamagedError:
            page = []
        found = [
            Failure(int(fields[b"job"]), int(fields[b"attempt"]), fields.get(b"output", b""))
            for _, fields in page
            if fields.get(b"job", b"").isdigit() and fields.get(b"attempt", b"").isdigit()
        ]
        return found, _text(page[-1][0]) if page else cursor

    # ----------------------------------------------------------------------------------------------------

    def _hmget(self, key: str, ids: Sequence[int]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for page in pages(ids, PAGE):
            values += self._hmget_page(key, page)
        return values

    def _extra(self, name: str, ids: Sequence[int]) -> list[bytes | None]:
        """HMGET of an extra column. A damaged one reads as empty, as it does to the scripts."""
        try:
            return self._hmget(self.keys.column(name), ids)
        except DamagedError:
            return [None] * len(ids)

    def _unless_damaged(self, operation: Callable[[Any], Any], nothing: Any) -> Any:
        """The reply of an extra column, or `nothing`."""
        try:
            return self.link.call(operation)
        except DamagedError:
            return nothing

    # Each call stands in a function of its own: a lambda in a loop refers to the loop's variables, not to the
    # values of this turn, and the link may repeat it.

    def _hmget_page(self, key: str, ids: Sequence[int]) -> list[bytes | None]:
        return self.link.call(lambda client: client.hmget(key, ids))

    def _report_blocks(self, job: int, first: int, last: int) -> tuple[list[bytes | None], ReportHead | None]:
        """These blocks of the reports of a job, and their head right after."""

        def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(self.keys.column("reports"), [f"{job}:{n}" for n in range(first, last + 1)])
            pipeline.hget(self.keys.column("report_heads"), job)
            replies: list[Any] = pipeline.execute()
            return replies

        blocks, head = self._unless_damaged(operation, ([], None))
        return blocks, parse_head(head)

    def _hints(self, cursor: str) -> tuple[bool, list[Any]]:
        """Whether the cursor still stands in the stream of hints, and a page of what follows."""

        def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.xrange(self.keys.reported, cursor, cursor)
            pipeline.xrange(self.keys.reported, f"({cursor}", "+", PAGE)
            replies: list[Any] = pipeline.execute()
            return replies

        known, page = self._unless_damaged(operation, ([], []))
        return bool(known), page

    def _scan_page(self, key: str, cursor: int) -> tuple[int, dict[bytes, bytes]]:
        following, page = self._unless_damaged(lambda client: client.hscan(key, cursor, count=PAGE), (0, {}))
        return following, page

    def _rank_page(self, key: str, start: int) -> list[bytes]:
        return self.link.call(lambda client: client.zrange(key, start, start + PAGE - 1))

    def _count_pending(self, shapes: Sequence[Shape]) -> list[int]:
        def operation(client: Any) -> list[int]:
            pipeline = client.pipeline(transaction=False)
            for shape in shapes:
                pipeline.zcard(self.keys.pending_of(shape))
            replies: list[int] = pipeline.execute()
            return replies

        return self.link.call(operation)

    def _held_by(self, worker: str) -> list[bytes]:
        return self.link.call(lambda client: client.hkeys(self.keys.held(worker)))

    def _failures_from(self, cursor: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return self.link.call(lambda client: client.xrange(self.keys.column("failures"), cursor, "+", PAGE))

    def _run(self, name: str, *arguments: Any) -> Any:
        return self._checked(self.link.run_script(script(name), self.keys.columns, self.uid, *arguments))

    def _checked(self, reply: Any) -> Any:
        if reply == GONE:
            raise campaign_gone(self.link, self.campaign)
        return reply


def parse_config(value: bytes) -> tuple[int, bytes]:
    """(submission time in ms, config JSON) of a value of the column `configs`. A damaged time reads as 0."""
    stamp = value[:STAMP_DIGITS]
    return int(stamp, 36) if stamp.isalnum() else 0, value[STAMP_DIGITS:]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _numbers(members: Iterable[bytes]) -> list[int]:
    """The ids among `members`; we have not put there anything else."""
    return [int(member) for member in members if member.isdigit()]


def _host(entry: bytes) -> str | None:
    """The host in an entry of the roster (JSON)."""
    try:
        return str(decode(entry)["host"])
    except (ValueError, TypeError, LookupError):
        return None
