"""Reads the result stream: its entries, and a blocking reader with its own cursor."""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple

from queue_eval import failpoints
from queue_eval.campaign.paging import Portion
from queue_eval.foreign_text import plain
from queue_eval.model.non_finite import is_finite, judge_result
from queue_eval.model.states import Outcome, State
from queue_eval.transport.error_kinds import REDIS_ERRORS
from queue_eval.transport.link import BlockingClient, Link

log = plain(logging.getLogger(__name__))

_MAX_ID_DIGITS = 16
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")

_STATES = {state.value[0]: state for state in State if state.is_final}

_MARGIN_S = 5.0
"""A blocking read may be answered this much later than asked before the reply counts as lost."""


class ResultEntry(NamedTuple):
    """One terminal outcome."""

    entry: str
    id: int
    state: State
    attempts: int
    """Executions begun and charged."""
    run_ms: float | None
    finished_ms: int
    """Unix time, by the server's clock."""
    worker: str
    source: str
    cause: str
    """Why a job failed; "stopped" for one that has succeeded early, as asked; else empty."""
    body: bytes
    """Result (JSON) of a succeeded job, else the error (text)."""
    releases: int = 0
    """Leases given back without charge."""
    reports: int = 0
    """How many of the job's reports are kept."""
    attempt: int = 0
    """The number of the attempt that settled the job, where that is not `attempts`; else 0."""

    @property
    def started_ms(self) -> float | None:
        return None if self.run_ms is None else self.finished_ms - self.run_ms


def parse_entries(raw: Any) -> list[ResultEntry]:
    """Entries from a reply of XRANGE."""
    return [_parse(entry.decode(), fields) for entry, fields in raw if fields]


def _parse(entry: str, fields: dict[bytes, bytes]) -> ResultEntry:
    try:
        job, state, attempts, run_ms, age_ms, source, worker, cause = fields[b"outcome"].decode().split(" ")
        finished_ms = int(entry.partition("-")[0]) - int(age_ms)
        more: tuple[int, ...] = ()
        if len(fields) > 2:  # most have nothing else
            more = tuple(int(fields.get(name, 0)) for name in (b"releases", b"reports", b"attempt"))
        return ResultEntry(
            entry, int(job), _STATES[state], int(attempts), float(run_ms) if run_ms else None, finished_ms,
            worker, source, cause, fields[b"body"], *more,
        )  # fmt: skip
    except (KeyError, ValueError):
        return _damaged(entry, fields)


def _damaged(entry: str, fields: dict[bytes, bytes]) -> ResultEntry:
    """The failure that stands for an entry which we have not written like this.

    Its `id` is 0 if the entry names no job. One bad entry must not keep a driver from all others.
    """
    name = fields.get(b"outcome", b"").partition(b" ")[0]
    job = int(name) if name.isdigit() and len(name) < _MAX_ID_DIGITS else 0
    log.warning("entry %s of a result stream is damaged: %s", entry, f"job {job}" if job else "of no job")
    return lost_entry(job, entry)


def lost_entry(job: int, entry: str) -> ResultEntry:
    """A failure in place of an outcome that the server should have and cannot give."""
    return ResultEntry(
        entry=entry, id=job, state=State.FAILED, attempts=1, run_ms=None,
        finished_ms=entry_order(entry)[0] if is_entry(entry) else 0, worker="", source="", cause="error",
        body=b"the outcome of this job is damaged on the server: something else has written to its keys",
    )  # fmt: skip


def judged(entry: ResultEntry) -> ResultEntry:
    """The outcome, in which a result that is NaN or infinite has become a failure.

    A worker of an earlier version reports a success when the child that it runs is of this version.
    """
    if entry.state is not State.SUCCEEDED or is_finite(entry.body):
        return entry
    outcome, body = judge_result(Outcome.OK, entry.body)
    return entry._replace(state=State.FAILED, cause=outcome.value, body=body)


def entry_order(entry: str) -> tuple[int, int]:
    """A sort key: the order in which entries were added to a stream."""
    time_ms, _, number = entry.partition("-")
    return int(time_ms), int(number)


def is_entry(text: str) -> bool:
    """Whether this may be the id of an entry of a stream."""
    return _ENTRY.fullmatch(text) is not None


class ResultReader:
    """Reads a campaign's result stream from a cursor, blocking, on a connection of its own.

    Guarantees: every entry after the first cursor is returned exactly once, in order. The cursor only moves
    past entries that are returned, so a lost reply is read again. Assumes: one thread uses it at a time.

    `hints`: key of a stream in the same slot. An entry there after `hint_cursor` ends a read, too.
    """

    def __init__(
        self, link: Link, key: str, cursor: str, *, max_block_s: float = 30.0, hints: str | None = None
    ) -> None:
        self._link = link
        self._max_block_s = max_block_s
        self._key = key
        self._portion = Portion()
        self.cursor = cursor
        self._hints = hints
        self.hint_cursor = "0-0"
        """Set by the caller: it is not moved here."""
        self.has_hints = False
        """Whether the last read has found hints after their cursor."""
        self.may_have_more = False
        """Whether the last read may have left something behind."""
        self._client = BlockingClient(link, max_block_s + _MARGIN_S)

    def read(self, block_s: float, count: int | None = None) -> list[ResultEntry]:
        """Entries after the cursor: up to `count`, or else some megabytes of them.

        Waits up to `block_s` for the first one, and as long as it takes for a server that is away. May return
        none.
        """
        count = count or self._portion.count
        self.may_have_more = self.has_hints = False
        block_ms = max(1, round(min(block_s, self._max_block_s) * 1000)) if block_s > 0 else None
        failpoints.reach("server.before-read")
        try:
            cursors = {self._key: self.cursor}
            if self._hints is not None:
                cursors[self._hints] = self.hint_cursor
            reply = self._client.get().xread(cursors, count=count, block=block_ms)
            failpoints.reach("server.after-read")
        except REDIS_ERRORS as error:
            # Wait for the server on the common link, then read again from the same cursor.
            self._client.close()
            self._link.wait_until_back(error, self._key)
            return []
        except BaseException:
            self.close()  # it was interrupted: a reply that is on its way must not answer a later read
            raise
        found = {key.decode(): raw for key, raw in reply or ()}
        self.has_hints = self._hints in found
        raw = found.get(self._key)
        if not raw:
            return []
        entries = parse_entries(raw)
        self.cursor = raw[-1][0].decode()
        self._portion.adapt(len(entries), sum(len(entry.body) for entry in entries))
        self.may_have_more = len(raw) == count
        return entries

    def close(self) -> None:
        self._client.close()
