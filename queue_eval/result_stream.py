"""The result stream as a driver reads it: entries, and a reader that blocks from its own cursor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from queue_eval.connection import BlockingClient, Link
from queue_eval.faults import REDIS_ERRORS
from queue_eval.states import State

_MARGIN_S = 5.0
"""A blocking read may be answered this much later than asked before the reply counts as lost."""


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """One terminal outcome."""

    entry: str
    id: int
    state: State
    attempts: int
    """Executions begun."""
    run_ms: float | None
    finished_ms: int
    """Unix time, by the server's clock."""
    worker: str
    source: str
    cause: str
    body: bytes
    """Result (JSON) of a succeeded job, else the error (text)."""

    @property
    def started_ms(self) -> float | None:
        return None if self.run_ms is None else self.finished_ms - self.run_ms


def parse_entries(raw: Any) -> list[ResultEntry]:
    """Entries from a reply of XRANGE."""
    return [_parse(entry.decode(), fields) for entry, fields in raw if fields]


def _parse(entry: str, fields: dict[bytes, bytes]) -> ResultEntry:
    run_ms = fields[b"run_ms"]
    return ResultEntry(
        entry=entry,
        id=int(fields[b"job"]),
        state=State(fields[b"state"].decode()),
        attempts=int(fields[b"attempts"]),
        run_ms=float(run_ms) if run_ms else None,
        finished_ms=int(entry.partition("-")[0]) - int(fields[b"age_ms"]),
        worker=fields[b"worker"].decode(errors="replace"),
        source=fields[b"source"].decode(errors="replace"),
        cause=fields[b"cause"].decode(),
        body=fields[b"body"],
    )


def entry_order(entry: str) -> tuple[int, int]:
    """What sorts entries of a stream in the order in which they were added."""
    time_ms, _, number = entry.partition("-")
    return int(time_ms), int(number)


class ResultReader:
    """Reads a campaign's result stream from a cursor, blocking, on a connection of its own.

    Guarantees: every entry after the first cursor is returned exactly once, in order: the cursor moves only
    with what is returned, so a lost reply is read again. Assumes: one thread at a time.
    """

    def __init__(self, link: Link, key: str, cursor: str, *, max_block_s: float = 30.0) -> None:
        self._link = link
        self._max_block_s = max_block_s
        self._key = key
        self.cursor = cursor
        self._client = BlockingClient(link, max_block_s + _MARGIN_S)

    def read(self, block_s: float, count: int = 2000) -> list[ResultEntry]:
        """Entries after the cursor; waits up to `block_s` for the first, and for a server that is away."""
        block_ms = max(1, round(min(block_s, self._max_block_s) * 1000)) if block_s > 0 else None
        try:
            reply = self._client.get().xread({self._key: self.cursor}, count=count, block=block_ms)
        except REDIS_ERRORS as error:
            # Wait for the server on the common link, then read again from the same cursor.
            self._client.close()
            self._link.wait_until_back(error)
            return []
        except BaseException:
            self.close()  # interrupted: a reply that is on its way must answer no later read
            raise
        if not reply:
            return []
        entries = parse_entries(reply[0][1])
        self.cursor = reply[0][1][-1][0].decode()
        return entries

    def close(self) -> None:
        self._client.close()
