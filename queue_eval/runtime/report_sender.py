"""Sends what one process of an attempt has to tell the worker: points, at a bounded rate, and single frames.

::

    report() ──▶ arrived ──▶ waiting: by step, at most MAX_WAITING ──frames──▶ worker
                                ▲ the flusher, a thread, only while something waits

Guarantees: `report` never waits for the worker. A point is sent at once, or waits until the next frame may go
and the pipe has room. Of points with the same step that wait, the newest value of each name stays. When too
many wait, every second one is dropped, but for the first and the last. What is dropped is counted. All that
waits is sent before `finish` returns, and nothing after. A point waits up to 0.3 s, and up to a second while
the job reports more than MAX_POINTS_PER_S.

A signal handler of user code may call these methods, or raise, at any moment. So no lock is taken twice by
one thread, and a frame is written whole or not at all.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident, start_new_thread
from collections import deque
from time import monotonic

from queue_eval.errors import AttemptEndedError, ReportError
from queue_eval.runtime.attempts import refuse
from queue_eval.runtime.pipe import MAX_DATAGRAM_BYTES, Kind
from queue_eval.runtime.report_values import MAX_NAMES, as_json, checked

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

    from queue_eval.runtime.attempts import Send

MAX_WAITING = 1000
"""Points that wait in one process."""

MAX_POINTS_PER_S = 1000
_MAX_FRAMES_PER_S = 20
_POINTS_AT_ONCE = 100
"""After a pause so many points may go at once."""
_STEADY_FRAME_BYTES = 16_000
"""The points in one frame, while the function runs: it bounds what a worker reads in a second."""
_LAST_FRAME_BYTES = MAX_DATAGRAM_BYTES - 500
_RETRY_S = 0.02
"""How long to wait for room before the next look for it."""
_FLUSH_EVERY_S = 0.1
_IDLE_FLUSHES = 4
"""After so many looks at which nothing waits, the flusher ends."""


class _Point:
    __slots__ = ("elapsed_ms", "json", "values")

    def __init__(self, elapsed_ms: int, values: dict[str, float], json: str) -> None:
        self.elapsed_ms = elapsed_ms
        self.values = values
        self.json = json


class ReportSender:
    """Sends what this process has to tell of one attempt. Thread-safe; not for use after a fork."""

    def __init__(
        self, token: tuple[int, int], began: float, send: Send, *, frames_at_once: int = 1
    ) -> None:
        """`began`: when the attempt began (monotonic, s). `frames_at_once`: how many frames may go at once
        after a pause; a process that nobody asks to finish sends more at once."""
        self._token = token
        self._began = began
        self._send = send
        self._frames_at_once = frames_at_once
        self._lock = allocate_lock()
        self._owner = 0
        """The thread that has the lock."""
        self._arrived: deque[tuple[int, int, dict[str, float], str]] = deque()
        self._frames: deque[tuple[Any, ...]] = deque()
        self._waiting: dict[Any, tuple[int, _Point]] = {}
        """Points by step; in the order of their newest values."""
        self._dropped = 0
        self._frames_left = float(frames_at_once)
        self._points_left = float(_POINTS_AT_ONCE)
        self._counted_at = monotonic()
        self._retry_at = 0.0
        """When to look again for room in the pipe."""
        self._closed = ""
        """Why nothing is sent any more; "" while this is open."""
        self._has_flusher = False
        self._wake = allocate_lock()
        self._wake.acquire()

    def report(self, step: Any, values: dict[str, Any]) -> None:
        """Take a point. Raises ReportError or AttemptEndedError."""
        number, numbers, json = checked(step, values)
        if self._closed:
            raise AttemptEndedError(self._closed)
        self._arrived.append((int((monotonic() - self._began) * 1000), number, numbers, json))
        self._pump()
        if self._closed:
            raise AttemptEndedError(self._closed)

    def frame(self, kind: str, *rest: Any) -> None:
        """Send the frame [kind, id, attempt, *rest], or keep it until it can be sent. Raises
        AttemptEndedError."""
        if self._closed:
            raise AttemptEndedError(self._closed)
        self._frames.append((kind, *self._token, *rest))
        self._pump()
        if self._closed:
            raise AttemptEndedError(self._closed)

    def finish(self) -> None:
        """Send all that waits; from then on everything is refused. May be called twice."""
        me = get_ident()
        if self._owner == me:
            return
        with self._lock:
            self._owner = me
            try:
                if not self._closed:
                    self._sort()
                    self._send_all()
            except OSError:  # nobody receives: then nobody needs it
                pass
            finally:
                self._closed = "the attempt of this job is over; report while the run function runs"
                self._send = refuse  # see `Attempt.finish`
                self._owner = 0
        if self._wake.locked():
            try:  # noqa: SIM105 - contextlib takes a while to import
                self._wake.release()
            except RuntimeError:  # released by another thread
                pass

    def _pump(self) -> None:
        """Send what may be sent now."""
        me = get_ident()
        if self._owner == me:
            return  # a signal handler came in between: the outer call, the flusher or `finish` goes on
        with self._lock:
            self._owner = me
            try:
                while not self._closed:
                    self._sort()
                    self._send_due()
                    if not self._arrived:
                        break
                if (self._waiting or self._frames) and not self._closed:
                    self._start_flusher()
            except OSError as error:
                self._closed = (
                    f"the worker of this job is gone ({error.strerror or error}): "
                    "another worker runs the job again"
                )
            finally:
                self._owner = 0

    # Under the lock ---------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """Take what has arrived into `_waiting`."""
        waiting = self._waiting
        while self._arrived:
            elapsed_ms, step, values, json = self._arrived.popleft()
            before = waiting.pop(step, None)
            if before is None:
                waiting[step] = (step, _Point(elapsed_ms, values, json))
            else:
                self._merge(step, before[1], _Point(elapsed_ms, values, json))
            if len(waiting) > MAX_WAITING:
                self._thin()

    def _merge(self, step: int, old: _Point, new: _Point) -> None:
        """Keep the newest value of each name, if that is still one point."""
        values = {**old.values, **new.values}
        try:
            if len(values) <= MAX_NAMES:
                merged = _Point(new.elapsed_ms, values, as_json(values))
                self._dropped += not old.values.keys().isdisjoint(new.values.keys())
                self._waiting[step] = (step, merged)
                return
        except ReportError:
            pass
        self._waiting[object()] = (step, old)
        self._waiting[step] = (step, new)

    def _thin(self) -> None:
        items = list(self._waiting.items())
        kept = [*items[:-1:2], items[-1]]
        self._dropped += len(items) - len(kept)
        self._waiting = dict(kept)

    def _send_due(self) -> None:
        now = monotonic()
        if now < self._retry_at:
            return
        if not self._send_frames(wait=False):
            self._retry_at = now + _RETRY_S
            return
        passed_s = max(0.0, now - self._counted_at)
        self._counted_at = now
        self._frames_left = min(self._frames_at_once, self._frames_left + passed_s * _MAX_FRAMES_PER_S)
        self._points_left = min(_POINTS_AT_ONCE, self._points_left + passed_s * MAX_POINTS_PER_S)
        while self._waiting and self._frames_left >= 1 and self._points_left >= 1:
            sent = self._send_points(int(self._points_left), _STEADY_FRAME_BYTES, wait=False)
            if not sent:
                self._retry_at = now + _RETRY_S
                return
            self._frames_left -= 1
            self._points_left -= sent

    def _send_all(self) -> None:
        self._send_frames(wait=True)
        while self._waiting or self._dropped:
            self._send_points(MAX_WAITING, _LAST_FRAME_BYTES, wait=True)

    def _send_frames(self, *, wait: bool) -> bool:
        while self._frames:
            if not self._send(self._frames[0], wait=wait):
                return False
            self._frames.popleft()
        return True

    def _send_points(self, most: int, most_bytes: int, *, wait: bool) -> int:
        """Send the oldest points in one frame. Returns how many; 0 when there is no room."""
        lines: list[bytes] = []
        keys: list[Any] = []
        size = 0
        for key, (step, point) in self._waiting.items():
            line = f"{point.elapsed_ms} {step} {point.json}\n".encode()
            size += len(line)
            if len(lines) >= most or (lines and size > most_bytes):
                break
            lines.append(line)
            keys.append(key)
        elapsed_ms = int((monotonic() - self._began) * 1000)
        header = (Kind.POINTS, *self._token, elapsed_ms, self._dropped)
        lost = 0
        try:
            if not self._send(header, b"".join(lines), wait=wait):
                keys = []
                return 0
        except OSError:
            raise
        except BaseException:  # raised by a handler of user code: nobody knows whether the frame was sent
            lost = len(keys) + self._dropped
            raise
        finally:
            for key in keys:
                del self._waiting[key]
            self._dropped = lost if keys or wait else self._dropped
        return len(keys)

    def _start_flusher(self) -> None:
        if self._has_flusher:
            return
        self._has_flusher = True
        try:
            start_new_thread(self._flush, ())
        except RuntimeError:  # no more threads: what waits goes with the next call, or at the end
            self._has_flusher = False

    def _flush(self) -> None:
        idle = 0
        while idle < _IDLE_FLUSHES:
            self._wake.acquire(timeout=_FLUSH_EVERY_S)
            if self._closed:
                return
            self._pump()
            idle = 0 if self._waiting or self._frames else idle + 1
        with self._lock:
            self._has_flusher = False
        self._pump()  # something may have come in between
