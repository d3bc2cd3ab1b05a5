"""What a running attempt tells of itself, before it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from queue_eval.model.attempt import Token
from queue_eval.model.codec import EXACT_FLOAT
from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.model.moves import Printed
from queue_eval.runtime.pipe import RUNNING, Kind


class Sign(NamedTuple):
    """One message of a running attempt."""

    token: Token
    kind: str
    began_at: float = 0.0
    """Of points: when the attempt began (monotonic, s)."""
    dropped: int = 0
    """Of points: how many its process has dropped since it last sent some."""
    lines: Sequence[bytes] = ()
    """Of points: "elapsed_ms step values\\n" for each."""
    text: str = ""
    """Of SAVED: "save place". Of GIVE_BACK: the reason."""


def parse_sign(header: list[Any], body: bytes) -> Sign:
    """Raises ValueError for anything that is none."""
    try:
        kind = header[0]
        if kind == Kind.POINTS:
            job, attempt, elapsed_ms, dropped = map(_number, header[1:])
            began_at = time.monotonic() - elapsed_ms / 1000
            return Sign((job, attempt), kind, began_at, dropped, body.splitlines(keepends=True))
        token = _number(header[1]), _number(header[2])
        if kind == Kind.SAVED:
            _, _, _, save, place = header
            return Sign(token, kind, text=f"{_number(save)} {_word(place)}")
        if kind == Kind.GIVE_BACK:
            return Sign(token, kind, text=str(header[3]))
        if kind in RUNNING:
            return Sign(token, kind)
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"not a sign of an attempt: {error}") from None
    raise ValueError(f"not a sign of an attempt: {kind!r}")


def parse_printed(header: list[Any], body: bytes) -> Printed:
    """What a frame `printed` tells. Raises ValueError for anything that is none."""
    if len(header) != 4 or header[0] != Kind.PRINTED:
        raise ValueError(f"not a frame of what is printed: {header!r}")
    job, attempt, total = map(_number, header[1:])
    if not 0 < len(body) <= min(total, LIVE_BYTES):
        raise ValueError(f"{len(body)} bytes of {total} printed")
    return Printed(job, attempt, "", total, body)


def token_of(header: list[Any], body: bytes) -> Token:
    """Which attempt this frame of a running attempt is of. Raises ValueError for anything that is none."""
    if header[0] == Kind.PRINTED:
        printed = parse_printed(header, body)
        return printed.id, printed.attempt
    return parse_sign(header, body).token


def _number(value: Any) -> int:
    # User code may write anything into the pipe.
    if type(value) is not int or not 0 <= value <= EXACT_FLOAT:
        raise ValueError(f"not a number of an attempt: {value!r}")
    return value


def _word(text: Any) -> str:
    if not isinstance(text, str) or not text.isalnum() or len(text) > 64:
        raise ValueError(f"not the id of a folder: {text!r}")
    return text
