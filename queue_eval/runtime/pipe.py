"""The messages between a worker and the processes that run user code, all in one file.

A frame is four bytes of length (big-endian), then a JSON header line, then the bytes that the header
announces. Configs and results pass through verbatim: the parent never decodes them.

=============  =========  =======================================================================
frame          direction  header, then bytes
=============  =========  =======================================================================
setup          to child   function name, path, kwargs, threads, whether by value, where to forward
                          to (or null), allowed modules (or null), how values that JSON cannot
                          hold are treated, how the driver finds its code (or null), what a running
                          job needs (`Setup.inside`, or null); then the pickle
up             to parent  the interpreter works; loading the run function begins
ready          to parent  why the run function cannot be loaded ("" when it is loaded), then what
                          its source is made of
run            to child   id, attempt, slots if not 1; then the config (JSON)
recall         to child   (id, attempt) of attempts that are not to begin any more
report         to parent  id, attempt, outcome, run_ms, source, size of the body; then body, output
left           to parent  user code has left processes: those of the next report, or at the very end
tidy           to parent  the processes left by the last report's attempt have ended
points         to parent  id, attempt, ms since the attempt began, how many points were dropped since
                          the frame before; then the points, a line each
looked         to parent  id, attempt: it has looked at `stop_requested` for the first time
shown          to parent  id, attempt: it was shown that it is to stop
saved          to parent  id, attempt, number of the save, place: a checkpoint is complete
folder         to parent  id, attempt: its working folder exists from now on
give-back      to parent  id, attempt, reason: it is to be ended and given back
open           to parent  only in RQ's processes: the mailbox is needed
printed        to parent  id, attempt, how many bytes it has printed so far; then the newest of them
=============  =========  =======================================================================

A **point** is one call of `report` of a running job. Its line is ASCII: ``elapsed_ms step values``, with the
values as a JSON object. The frames from `points` to `give-back` also come from other processes of the
attempt: each as one datagram, with the lane after the kind (`encode_datagram`). `printed` is sent only where
the parent does not read the attempt's output itself.

Between a worker and a process that forwards attempts to others (`queue_eval.runtime.forwarder`) also:

=============  =========  =======================================================================
stop           to child   (id, attempt) of attempts to be ended, begun or not, without a report
notice         to child   the word that `stop_requested` is to show, and (id, attempt) of the attempts
close          to child   end all that was forwarded, then exit
slots          to parent  how many attempts there is room for now (0: away), and why
begun          to parent  (id, attempt) of attempts whose execution has begun
returned       to parent  (id, attempt) of attempts that were recalled and have not begun
trouble        to parent  why nothing that was forwarded runs; empty when all is well
=============  =========  =======================================================================

The processes that run user code import this, so it imports next to nothing.
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
"""How much of an error's text is kept: the first and the last half of this."""


class Kind:
    """The kinds of frames, as headers spell them."""

    # Not an enum: importing that module would cost a child milliseconds.
    SETUP = "setup"
    UP = "up"
    READY = "ready"
    RUN = "run"
    RECALL = "recall"
    REPORT = "report"
    LEFT = "left"
    TIDY = "tidy"
    STOP = "stop"
    NOTICE = "notice"
    CLOSE = "close"
    SLOTS = "slots"
    TROUBLE = "trouble"
    BEGUN = "begun"
    RETURNED = "returned"
    POINTS = "points"
    LOOKED = "looked"
    SHOWN = "shown"
    SAVED = "saved"
    FOLDER = "folder"
    GIVE_BACK = "give-back"
    OPEN = "open"
    PRINTED = "printed"
    UNFIT = "unfit"
    """Only among the replies on RQ's Redis: the setup of the attempt was missing."""


RUNNING = (Kind.POINTS, Kind.LOOKED, Kind.SHOWN, Kind.SAVED, Kind.FOLDER, Kind.GIVE_BACK)
"""The kinds of frames that running attempts send. Not a set: the kind of a frame that user code has made up
may be a list, which has no hash."""


class Setup:
    """What a child must know before its first attempt. Immutable by convention."""

    # Neither this nor Report is a dataclass: importing that module takes as long as Python takes to start.
    __slots__ = (
        "allowed", "code", "forward", "inside", "kwargs", "name", "path", "payload", "threads", "values",
    )  # fmt: skip

    def __init__(
        self, name: str, payload: bytes | None, path: tuple[str, ...], kwargs: dict[str, Any], threads: int,
        forward: dict[str, Any] | None = None, allowed: tuple[str, ...] | None = None, values: str = "json",
        code: dict[str, Any] | None = None, inside: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.payload = payload
        self.path = path
        self.kwargs = kwargs
        self.threads = threads
        self.forward = forward
        """Where to forward attempts to; None for methods that run them in children."""
        self.allowed = allowed
        """Modules in which the run function may be defined; None: any."""
        self.values = values
        """How result values that JSON cannot hold are treated: "text" turns them into text, "json" fails the
        attempt."""
        self.code = code
        """How the driver finds its code (see `user_code`); None: a driver of an earlier version."""
        self.inside = inside
        """What `current_job` needs of the worker, the same for all attempts; None: a worker of an earlier
        version, in which `current_job` does nothing. Its keys: "campaign", "uid", "worker", "lane", texts;
        "checkpoints" (or null), "folders", "notices", folders; "mailbox", the path of a socket, or what a
        `Channel` takes;
        "time_limit_s" and "ends_at" (or null; the second by `time.monotonic`); "keep_checkpoints";
        "checkpoint_space", bytes (or null); "live", whether the worker takes the frame `printed`;
        "logs", the folder for output of which there is more than is kept (or null)."""

    def replace(self, **changes: Any) -> Setup:
        """A copy with `changes` applied."""
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
            self.allowed, self.values, self.code, self.inside,
        )  # fmt: skip
        return frame(header, self.payload or b"")


class Report:
    """How an attempt ended in the child. Immutable by convention."""

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
        # Formatted by hand, since nothing in it needs escaping: `frame` takes three times as long.
        line = b'["report",%d,%d,"%b",%.3f,"%b",%d]\n' % (
            self.id, self.attempt, self.outcome.encode(), self.run_ms, self.source.encode(), len(self.body)
        )  # fmt: skip
        return _framed(line, self.body, self.output)


TELL_UP = "tell-up"
"""An argument of the child: its parent knows the frame `up`. A parent of an earlier version does not."""

TELL_LEFT = "tell-left"
"""An argument of the child: its parent knows the frames `left` and `tidy`, and lets the child end by itself
after it has closed the pipe."""

MAX_POINT_BYTES = 4096 - 16
"""A point's line is no longer. The worker adds its number, and the server takes 4096 bytes."""

MAX_DATAGRAM_BYTES = 60_000
"""A datagram for the mailbox is no longer."""

_MAX_LOAD_ERROR_CHARS = 1000
"""A load error is cut to one line of this length. Each report has the whole error."""

_MAX_FRAME_BYTES = 128 * 2**20
"""No frame is longer. Bytes that announce a longer one were written into the pipe by user code, as any text
would."""


def encode_ready(load_error: str = "", source_parts: dict[str, Any] | None = None) -> bytes:
    return frame((Kind.READY, load_error[:_MAX_LOAD_ERROR_CHARS], source_parts or {}))


def encode_run(job: int, attempt: int, config: bytes, slots: int = 1) -> bytes:
    if slots == 1:
        return _framed(b'["run",%d,%d]\n' % (job, attempt), config)
    return frame((Kind.RUN, job, attempt, slots), config)


def encode_recall(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame((Kind.RECALL, list(tokens)))


def encode_stop(tokens: Iterable[tuple[int, int]]) -> bytes:
    return frame((Kind.STOP, list(tokens)))


def encode_notice(tokens: Iterable[tuple[int, int]], word: str) -> bytes:
    return frame((Kind.NOTICE, word, list(tokens)))


def parse_setup(header: list[Any], body: bytes) -> Setup:
    # The package may be replaced under a running worker: fields that an older worker does not send are unset.
    _, name, path, kwargs, threads, by_value, forward, *more = header
    modules = tuple(more[0]) if more and more[0] is not None else None
    values = more[1] if len(more) > 1 else "json"
    code = more[2] if len(more) > 2 else None
    inside = more[3] if len(more) > 3 else None
    return Setup(
        name, body if by_value else None, tuple(path), kwargs, threads, forward, modules, values, code, inside
    )


def parse_ready(header: list[Any]) -> str:
    """Why the run function cannot be loaded; "" when it is loaded, or an earlier version does not say."""
    return str(header[1]) if len(header) > 1 else ""


def parse_source_parts(header: list[Any]) -> dict[str, Any]:
    """What the source of the loaded function is made of; {} when an earlier version does not say."""
    return header[2] if len(header) > 2 and isinstance(header[2], dict) else {}


def parse_report(header: list[Any], body: bytes) -> Report:
    _, job, attempt, outcome, run_ms, source, size = header
    return Report(job, attempt, outcome, run_ms, source, body[:size], body[size:])


def encode_datagram(lane: str, header: tuple[Any, ...], body: bytes = b"") -> bytes:
    """A frame for the mailbox of a worker, of an attempt in `lane`."""
    return frame((header[0], lane, *header[1:]), body)


def frame(header: Any, *bodies: bytes) -> bytes:
    return _framed(encode(header).encode() + b"\n", *bodies)


def _framed(line: bytes, *bodies: bytes) -> bytes:
    return b"".join(((len(line) + sum(map(len, bodies))).to_bytes(_LENGTH_BYTES, "big"), line, *bodies))


class FrameBuffer:
    """Collects bytes as they arrive, and returns whole frames."""

    def __init__(self, max_frame_bytes: int = _MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._data = bytearray()
        self._wanted = 0
        """The length (bytes) of the frame at the beginning of the buffer; 0 when it is not known."""

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
        finally:  # after an error the bytes stay: what follows them is never taken for a frame
            if at < len(data):
                left += data[at:]
        return frames

    def _end_of_frame(self, data: bytes, at: int) -> int | None:
        """The end of the frame that begins at `at`; None when the frame is not complete."""
        self._wanted = 0
        if len(data) - at < _LENGTH_BYTES:
            return None
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        if length >= self._max_frame_bytes:
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


class HeadTail:
    """Keeps the first and the last half of `limit` bytes, with a note of how many are missing between."""

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

    @property
    def count(self) -> int:
        """How many bytes came since it began."""
        return self._count

    def whole(self) -> bytes:
        """All that came. Assumes: that is little more than the limit, of which nothing is left out yet."""
        return bytes(self._first + self._last)

    def newest(self, most: int) -> bytes:
        """The last `most` bytes, or all if there are fewer. Assumes: `most` is at most half of the limit."""
        missing = most - len(self._last)
        if missing <= 0 or self._count == len(self._first):
            return bytes((self._last or self._first)[-most:]) if most else b""
        return bytes(self._first[-missing:] + self._last)

    def take(self, note: str = "") -> bytes:
        """Return what was kept, and begin anew. `note` says where what is missing is."""
        first, last = bytes(self._first), bytes(self._last[-self._half :])
        missing = self._count - len(first) - len(last)
        self._clear()
        return with_gap(first, missing, last, note) if missing else first + last

    def _clear(self) -> None:
        self._first = bytearray()
        self._last = bytearray()
        self._count = 0


_GAP_BEGIN = b"\n[... "
_GAP_MIDDLE = b" bytes left out"
_GAP_END = b" ...]\n"
_GAP_DIGITS = 15


def with_gap(first: bytes, missing: int, last: bytes, note: str = "") -> bytes:
    """Join the beginning and the end of a text, with a note of how many bytes are missing between."""
    where = f"; {note}".encode() if note and "\n" not in note else b""
    return b"%b\n[... %d bytes left out%b ...]\n%b" % (first, missing, where, last)


def split_gap(text: bytes) -> tuple[bytes, int, bytes, str]:
    """What `with_gap` has joined: (first, missing, last, note). Without a gap: all of it is first."""
    start = text.find(_GAP_BEGIN)
    number, middle, rest = text[start + len(_GAP_BEGIN) :].partition(_GAP_MIDDLE)
    where, end, last = rest.partition(_GAP_END)
    if start < 0 or not (middle and end and number.isdigit()) or len(number) > _GAP_DIGITS or b"\n" in where:
        return text, 0, b"", ""
    return text[:start], int(number), last, where.removeprefix(b"; ").decode(errors="replace")


def truncate_middle(data: bytes, limit: int) -> bytes:
    """`data`, or its first and last `limit` // 2 bytes with a note between."""
    kept = HeadTail(limit)
    kept.add(data)
    return kept.take()
