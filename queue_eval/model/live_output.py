"""Defines what is known of the output of a running attempt, and how it stands on the server.

Its value is the line ``attempt total``, then the newest of the ``total`` bytes that the attempt has printed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LIVE_BYTES = 16 * 1024
"""How much of a running attempt's output the server has: the newest part."""

_HEAD = re.compile(rb"(\d{1,14}) (\d{1,14})")


class LiveHead(NamedTuple):
    """How far the output of a running attempt has come."""

    attempt: int
    total: int
    """How many bytes it has printed."""


class LiveOutput(NamedTuple):
    """The newest part of what a running attempt has printed."""

    attempt: int
    total: int
    """How many bytes it has printed."""
    text: bytes
    """The last of these bytes."""

    @property
    def left_out(self) -> int:
        """How many bytes it had printed before `text`."""
        return self.total - len(self.text)


def parse_live_head(value: bytes | None) -> LiveHead | None:
    """None for nothing, and for what is damaged."""
    match = _HEAD.fullmatch(value or b"")
    return LiveHead(int(match[1]), int(match[2])) if match else None


def parse_live(value: bytes | None) -> LiveOutput | None:
    """None for nothing, and for what is damaged."""
    line, _, text = (value or b"").partition(b"\n")
    head = parse_live_head(line)
    return LiveOutput(*head, text) if head is not None and head.total >= len(text) else None
