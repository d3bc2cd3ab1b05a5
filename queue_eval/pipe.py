"""What a worker and the processes that run user code say to each other: all messages in one file.

A frame is four bytes of length (big-endian), then a JSON header line, then the bytes that the header
announces. Configs and results pass through verbatim: the parent never decodes them.

=============  =========  =======================================================================
frame          direction  header, then bytes
=============  =========  =======================================================================
setup          to child   function name, path, kwargs, threads, whether by value, where to forward
                          to (or null), modules that are allowed (or null); then the pickle
ready          to parent  the run function is loaded (or cannot be)
run            to child   id, attempt, slots if not 1; then the config (JSON)
recall         to child   (id, attempt) of attempts that are not to begin any more
report         to parent  id, attempt, outcome, run_ms, source, size of the body; then body, output
=============  =========  =======================================================================

Between a worker and a process that forwards attempts to others (`queue_eval.forwarder`) also:

=============  =========  =======================================================================
stop           to child   (id, attempt) of attempts to be ended, begun or not, without a report
close          to child   end all that was forwarded, then exit
slots          to parent  how many attempts there is room for now (0: away), and why
begun          to parent  (id, attempt) of attempts whose execution has begun
returned       to parent  (id, attempt) of attempts that were recalled and have not begun
=============  =========  =======================================================================

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_LENGTH_BYTES = 4
_decode = json.loads
_encode = json.JSONEncoder(separators=(",", ":")).encode

OUTPUT_BYTES = 64 * 1024
"""How much of an attempt's output is kept: the first and the last half of this."""

ERROR_BYTES = 16 * 1024
"""How much of an error's text is kept, likewise."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child must know before its first attempt."""

    name: str
    payload: bytes | None
    path: tuple[str, ...]
    kwargs: dict[str, Any]
    threads: int
    forward: dict[str, Any] | None = field(default=None, repr=False)
    """Where to forward attempts to, for the methods that do."""
    allowed: tuple[str, ...] | None = None
    """Modules in which the run function may be defined; None: any."""

    def encode(self) -> bytes:
        by_value = self.payload is not None
        header = (
            "setup", self.name, list(self.path), self.kwargs, self.threads, by_value, self.forward,
            self.allowed,
        )  # fmt: skip
        return frame(header, self.payload or b"")


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt ended in the child."""

    id: int
    attempt: int
    outcome: str
    run_ms: float
    source: str
    body: bytes
    output: bytes

    def encode(self) -> bytes:
        header = (
            "report", self.id, self.attempt, self.outcome, round(self.run_ms, 3), self.source, len(self.body)
        )  # fmt: skip
        return frame(header, self.body, self.output)


READY = "ready"

_MOST_BYTES = 128 * 2**20
"""No frame is longer; what looks longer was written by user code into the pipe (all text does)."""


def encode_run(job: int, attempt: int, config: bytes, slots: int = 1) -> bytes:
    return frame(("run", job, attempt) if slots == 1 else ("run", job, attempt, slots), config)


def encode_recall(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame(("recall", list(tokens)))


def encode_stop(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame(("stop", list(tokens)))


def parse_setup(header: list[Any], body: bytes) -> Setup:
    # The package may be replaced under a running worker: what an older one does not say is unset.
    _, name, path, kwargs, threads, by_value, forward, *more = header
    modules = tuple(more[0]) if more and more[0] is not None else None
    return Setup(name, body if by_value else None, tuple(path), kwargs, threads, forward, modules)


def parse_report(header: list[Any], body: bytes) -> Report:
    _, job, attempt, outcome, run_ms, source, size = header
    return Report(job, attempt, outcome, run_ms, source, body[:size], body[size:])


def frame(header: Any, *bodies: bytes) -> bytes:
    line = _encode(header).encode() + b"\n"
    return b"".join(((len(line) + sum(map(len, bodies))).to_bytes(_LENGTH_BYTES, "big"), line, *bodies))


class FrameBuffer:
    """Collects bytes as they come, gives whole frames out."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """Add `data`; return (header, body) of every frame that is now complete.

        Raises ValueError when the bytes are not frames (user code wrote into the pipe).
        """
        self._data += data
        frames = []
        at = 0
        while len(self._data) - at >= _LENGTH_BYTES:
            length = int.from_bytes(self._data[at : at + _LENGTH_BYTES], "big")
            if length >= _MOST_BYTES:
                raise ValueError("not a frame")
            end = at + _LENGTH_BYTES + length
            if len(self._data) < end:
                break
            whole = bytes(self._data[at + _LENGTH_BYTES : end])
            line, _, body = whole.partition(b"\n")
            header = _decode(line)
            if not isinstance(header, list):
                raise ValueError("not a frame")
            frames.append((header, body))
            at = end
        if at:
            del self._data[:at]
        return frames


class Kept:
    """The first and last half of `limit` bytes of what comes, with a note of what is missing between."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._clear()

    def add(self, data: bytes) -> None:
        self._count += len(data)
        room = self._half - len(self._first)
        if room > 0:
            self._first += data[:room]
            data = data[room:]
        self._last += data
        if len(self._last) > 4 * self._half:
            del self._last[: -self._half]

    def take(self) -> bytes:
        """What was kept, once."""
        first, last = bytes(self._first), bytes(self._last[-self._half :])
        missing = self._count - len(first) - len(last)
        self._clear()
        return b"%b\n[... %d bytes left out ...]\n%b" % (first, missing, last) if missing else first + last

    def _clear(self) -> None:
        self._first = bytearray()
        self._last = bytearray()
        self._count = 0


def bounded(data: bytes, limit: int) -> bytes:
    """`data`, or its first and last half of `limit` bytes with a note between."""
    kept = Kept(limit)
    kept.add(data)
    return kept.take()
