"""What a worker and the processes that run user code say to each other: all messages in one file.

A frame is four bytes of length (big-endian), then a JSON header line, then the bytes that the header
announces. Configs and results pass through verbatim: the parent never decodes them.

=============  =========  =======================================================================
frame          direction  header, then bytes
=============  =========  =======================================================================
setup          to child   function name, path, kwargs, threads, whether by value, where to forward
                          to (or null), modules that are allowed (or null), what becomes of
                          values that JSON cannot hold, how the driver finds its code (or null);
                          then the pickle
up             to parent  the interpreter works; loading the run function begins
ready          to parent  why the run function cannot be loaded; empty when it is loaded; then what
                          its source is made of
run            to child   id, attempt, slots if not 1; then the config (JSON)
recall         to child   (id, attempt) of attempts that are not to begin any more
report         to parent  id, attempt, outcome, run_ms, source, size of the body; then body, output
left           to parent  user code has left processes: those of the next report, or at the very end
tidy           to parent  those of the last report that had to end have ended
=============  =========  =======================================================================

Between a worker and a process that forwards attempts to others (`queue_eval.runtime.forwarder`) also:

=============  =========  =======================================================================
stop           to child   (id, attempt) of attempts to be ended, begun or not, without a report
close          to child   end all that was forwarded, then exit
slots          to parent  how many attempts there is room for now (0: away), and why
begun          to parent  (id, attempt) of attempts whose execution has begun
returned       to parent  (id, attempt) of attempts that were recalled and have not begun
trouble        to parent  why nothing that was forwarded runs; empty when all is well
=============  =========  =======================================================================

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

from queue_eval.model.codec import decode, encode

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_LENGTH_BYTES = 4

OUTPUT_BYTES = 64 * 1024
"""How much of an attempt's output is kept: the first and the last half of this."""

ERROR_BYTES = 16 * 1024
"""How much of an error's text is kept, likewise."""


class Kind:
    """The kinds of frames, as headers spell them."""

    # No enum: a child would take milliseconds to import that module.
    SETUP = "setup"
    UP = "up"
    READY = "ready"
    RUN = "run"
    RECALL = "recall"
    REPORT = "report"
    LEFT = "left"
    TIDY = "tidy"
    STOP = "stop"
    CLOSE = "close"
    SLOTS = "slots"
    TROUBLE = "trouble"
    BEGUN = "begun"
    RETURNED = "returned"
    UNFIT = "unfit"
    """Only among the replies on RQ's Redis: the setup of the attempt was not there."""


class Setup:
    """What a child must know before its first attempt; nothing changes it."""

    # No dataclass, nor is Report: their module takes as long to import as an interpreter takes to start.
    __slots__ = ("allowed", "code", "forward", "kwargs", "name", "path", "payload", "threads", "values")

    def __init__(
        self, name: str, payload: bytes | None, path: tuple[str, ...], kwargs: dict[str, Any], threads: int,
        forward: dict[str, Any] | None = None, allowed: tuple[str, ...] | None = None, values: str = "json",
        code: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.payload = payload
        self.path = path
        self.kwargs = kwargs
        self.threads = threads
        self.forward = forward
        """Where to forward attempts to, for the methods that do."""
        self.allowed = allowed
        """Modules in which the run function may be defined; None: any."""
        self.values = values
        """Of results: "text" makes text of what JSON cannot hold; with "json" that fails the attempt."""
        self.code = code
        """How the driver finds its code (see `user_code`); None: a driver of an earlier version."""

    def but(self, **changes: Any) -> Setup:
        """The same with other values for some."""
        return Setup(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setup) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def encode(self) -> bytes:
        by_value = self.payload is not None
        header = (
            Kind.SETUP, self.name, list(self.path), self.kwargs, self.threads, by_value, self.forward,
            self.allowed, self.values, self.code,
        )  # fmt: skip
        return frame(header, self.payload or b"")


class Report:
    """How an attempt ended in the child; nothing changes it."""

    __slots__ = ("attempt", "body", "id", "outcome", "output", "run_ms", "source")

    def __init__(
        self, job: int, attempt: int, outcome: str, run_ms: float, source: str, body: bytes, output: bytes
    ) -> None:
        self.id = job
        self.attempt = attempt
        self.outcome = outcome
        self.run_ms = run_ms
        self.source = source
        self.body = body
        self.output = output

    def encode(self) -> bytes:
        # Nothing in it needs escaping; the general way takes three times as long.
        line = b'["report",%d,%d,"%b",%.3f,"%b",%d]\n' % (
            self.id, self.attempt, self.outcome.encode(), self.run_ms, self.source.encode(), len(self.body)
        )  # fmt: skip
        return _framed(line, self.body, self.output)


TELL_UP = "tell-up"
"""An argument of the child: its parent knows the frame `up`, which that of an earlier version does not."""

TELL_LEFT = "tell-left"
"""Likewise: its parent knows `left` and `tidy`, and lets the child end by itself when it closes the pipe."""

_MOST_LOAD_ERROR = 1000
"""Characters: it is shown in one line. The error itself comes with each report."""

_MOST_BYTES = 128 * 2**20
"""No frame is longer; what looks longer was written by user code into the pipe (all text does)."""


def encode_ready(load_error: str = "", told: dict[str, Any] | None = None) -> bytes:
    return frame((Kind.READY, load_error[:_MOST_LOAD_ERROR], told or {}))


def encode_run(job: int, attempt: int, config: bytes, slots: int = 1) -> bytes:
    if slots == 1:
        return _framed(b'["run",%d,%d]\n' % (job, attempt), config)
    return frame((Kind.RUN, job, attempt, slots), config)


def encode_recall(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame((Kind.RECALL, list(tokens)))


def encode_stop(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame((Kind.STOP, list(tokens)))


def parse_setup(header: list[Any], body: bytes) -> Setup:
    # The package may be replaced under a running worker: what an older one does not say is unset.
    _, name, path, kwargs, threads, by_value, forward, *more = header
    modules = tuple(more[0]) if more and more[0] is not None else None
    values = more[1] if len(more) > 1 else "json"
    code = more[2] if len(more) > 2 else None
    return Setup(
        name, body if by_value else None, tuple(path), kwargs, threads, forward, modules, values, code
    )


def parse_ready(header: list[Any]) -> str:
    """Why the run function cannot be loaded; empty when it is, and where an earlier version does not say."""
    return str(header[1]) if len(header) > 1 else ""


def parse_told(header: list[Any]) -> dict[str, Any]:
    """What the source of the loaded function is made of; empty where an earlier version does not say."""
    return header[2] if len(header) > 2 and isinstance(header[2], dict) else {}


def parse_report(header: list[Any], body: bytes) -> Report:
    _, job, attempt, outcome, run_ms, source, size = header
    return Report(job, attempt, outcome, run_ms, source, body[:size], body[size:])


def frame(header: Any, *bodies: bytes) -> bytes:
    return _framed(encode(header).encode() + b"\n", *bodies)


def _framed(line: bytes, *bodies: bytes) -> bytes:
    return b"".join(((len(line) + sum(map(len, bodies))).to_bytes(_LENGTH_BYTES, "big"), line, *bodies))


class FrameBuffer:
    """Collects bytes as they come, gives whole frames out."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._wanted = 0
        """How long it must be to hold the frame that it begins with, if that is known."""

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """Add `data`; return (header, body) of every frame that is now complete.

        Raises ValueError when the bytes are not frames (user code wrote into the pipe).
        """
        left = self._data
        if left:
            left += data
            if len(left) < self._wanted:
                return []
            data = bytes(left)
            left.clear()
        frames: list[tuple[list[Any], bytes]] = []
        at = 0
        try:
            while (end := self._end_of_frame(data, at)) is not None:
                begin = at + _LENGTH_BYTES
                cut = data.find(b"\n", begin, end)
                header = decode(data[begin:cut]) if cut >= 0 else None
                if not isinstance(header, list):
                    raise ValueError("not a frame")
                frames.append((header, data[cut + 1 : end]))
                at = end
        finally:  # nothing that follows what is no frame is ever taken for one
            if at < len(data):
                left += data[at:]
        return frames

    def _end_of_frame(self, data: bytes, at: int) -> int | None:
        """Where the frame ends that begins there; None when it is not all there."""
        self._wanted = 0
        if len(data) - at < _LENGTH_BYTES:
            return None
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        if length >= _MOST_BYTES:
            raise ValueError("not a frame")
        end = at + _LENGTH_BYTES + length
        if len(data) < end:
            self._wanted = end - at
            return None
        return end


def parse_frame(data: bytes) -> tuple[list[Any], bytes]:
    """Header and body of exactly one frame. Raises ValueError for anything else."""
    (parts,) = FrameBuffer().feed(data)
    return parts


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
        return with_gap(first, missing, last) if missing else first + last

    def _clear(self) -> None:
        self._first = bytearray()
        self._last = bytearray()
        self._count = 0


def with_gap(first: bytes, missing: int, last: bytes) -> bytes:
    """The first and the last of some text, with a note of the bytes that are missing between."""
    return b"%b\n[... %d bytes left out ...]\n%b" % (first, missing, last)


def bounded(data: bytes, limit: int) -> bytes:
    """`data`, or its first and last half of `limit` bytes with a note between."""
    kept = Kept(limit)
    kept.add(data)
    return kept.take()
