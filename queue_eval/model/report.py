"""Defines what a running job tells of itself: reports, and how they stand on the server.

A *block* holds up to a hundred points of one attempt, as bytes: the line ``attempt base_ms``, then one line
``number elapsed_ms step values`` for each. ``base_ms`` is when the attempt began (Unix time, ms), ``values``
is JSON. The number counts from 1 in each attempt, also over points that were dropped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from queue_eval.model.codec import decode


class Report(NamedTuple):
    """What a running job has told by one call of `report`."""

    step: int
    values: dict[str, float]
    """By name: integers and floats, NaN and infinity among them."""
    attempt: int
    """The number of the attempt that told it."""
    at: datetime
    """When, by the server's clock (UTC)."""


class ReportHead(NamedTuple):
    """What is known of all reports of a job."""

    attempt: int
    """The newest attempt that has reported; 0 for none."""
    points: int
    """How many reports are kept."""
    dropped: int
    """How many are not: more came at once than are taken, or the job has more than are kept."""
    looked: int
    """The newest attempt that has looked at `stop_requested`; 0 for none."""
    number: int = 0
    """The number of the newest report, counted from 1 in its attempt."""
    blocks: int = 0
    """How many blocks hold the reports."""


def parse_block(block: bytes) -> list[tuple[int, Report]]:
    """(number, report) of each point in a block, in its order. Leaves out lines that are damaged."""
    head, *lines = block.split(b"\n")
    try:
        attempt, base_ms = map(int, head.split(b" "))
    except ValueError:
        return []
    found = []
    for line in lines:
        try:
            number, elapsed_ms, step, text = line.split(b" ", 3)
            values = decode(text)
            at = datetime.fromtimestamp((base_ms + int(elapsed_ms)) / 1000, UTC)
            if isinstance(values, dict) and all(type(value) in (int, float) for value in values.values()):
                found.append((int(number), Report(int(step), values, attempt, at)))
        except (ValueError, OverflowError, OSError):
            continue
    return found


def parse_head(value: bytes | None) -> ReportHead | None:
    """The head in a value of the column ``report_heads``. None for none, and for a damaged one."""
    words = (value or b"").split(b" ")
    if len(words) != _HEAD_WORDS or not all(word.isdigit() and len(word) < _MOST_DIGITS for word in words):
        return None
    attempt, covered, blocks, _in_last, points, dropped, looked, _size = map(int, words)
    return ReportHead(attempt, points, dropped, looked, covered, blocks) if blocks <= MOST_BLOCKS else None


MOST_BLOCKS = 20_000
"""More blocks than any job has. A head that tells of more is damaged."""

_HEAD_WORDS = 8
_MOST_DIGITS = 15
