"""Brings what a running attempt tells of itself to RQ's Redis, from where its forwarder takes it.

::

    child ──frames──▶ ForkedAttempt ──▶ Relay: waiting, bounded ──its thread, ten times a second──▶ told

An attempt that tells nothing costs nothing. While RQ's Redis is away, frames wait. When too many wait, every
second frame with points goes, and its points count as dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from queue_eval.backoff import Backoff
from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Token
from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.rq_bridge.commands import RqCommands
from queue_eval.runtime.pipe import Kind, frame
from queue_eval.transport.error_kinds import is_transient

log = plain(logging.getLogger("rq.worker.queue_eval"))

_EVERY_S = 0.1
"""What comes in this time goes together."""

_MAX_WAITING = 500
"""Frames: ten seconds of an attempt that reports as fast as it may."""

_RETRY_S = (0.1, 5.0)


class _Waiting(NamedTuple):
    number: int
    came_at: float
    header: list[Any]
    body: bytes

    @property
    def has_points(self) -> bool:
        return bool(self.header[0] == Kind.POINTS)

    def encode(self, now: float) -> bytes:
        if not self.has_points:
            return frame(self.header, self.body)
        # The receiver computes from it when the attempt began.
        kind, job, attempt, elapsed_ms, dropped = self.header
        elapsed_ms += round((now - self.came_at) * 1000)
        return frame((kind, job, attempt, elapsed_ms, dropped), self.body)


class Relay:
    """Of one execution. `add` never blocks."""

    def __init__(self, commands: RqCommands, token: Token, execution: str) -> None:
        self._commands = commands
        self._token = token
        self._execution = execution
        self._number = 0
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._push_lock = threading.Lock()
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.when_used: Callable[[], None] = lambda: None
        """Called when the first frame has come."""

    def add(self, header: list[Any], body: bytes) -> None:
        """Take a frame. Raises ValueError for one that is none."""
        if header[0] == Kind.POINTS and [type(value) for value in header[3:]] != [int, int]:
            raise ValueError("not a frame of points")
        with self._lock:
            self._number += 1
            if header[0] == Kind.PRINTED:
                body = self._with_waiting(header, body)
            self._waiting.append(_Waiting(self._number, time.monotonic(), header, body))
            if len(self._waiting) > _MAX_WAITING:
                self._thin()
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="relay", daemon=True)
            self._thread.start()
            self.when_used()

    def push(self) -> None:
        """Bring what waits. May be repeated after an error of the client."""
        with self._push_lock:
            with self._lock:
                batch = list(self._waiting)
            if not batch:
                return
            now = time.monotonic()
            self._commands.tell(
                self._token, self._execution, [(waiting.number, waiting.encode(now)) for waiting in batch]
            )
            with self._lock:
                self._waiting = [waiting for waiting in self._waiting if waiting.number > batch[-1].number]

    def stop(self) -> None:
        """Let the thread bring nothing more."""
        self._over.set()
        self._news.set()

    def _work(self) -> None:
        backoff = Backoff(*_RETRY_S, jitter=0.5)
        while not self._over.is_set():
            self._news.wait()
            self._news.clear()
            if self._over.is_set():
                return
            try:
                self.push()
                backoff.reset()
                self._over.wait(_EVERY_S)
            except Exception as error:
                if not is_transient(error):
                    log.warning("what a job reports does not reach RQ's Redis: %s", error)
                self._over.wait(backoff.next_s())
                self._news.set()

    def _with_waiting(self, header: list[Any], text: bytes) -> bytes:
        """Under the lock: of what was printed only the newest waits, with what waits before it."""
        for at, waiting in enumerate(self._waiting):
            if waiting.header[0] == Kind.PRINTED:
                del self._waiting[at]
                is_next = waiting.header[3] == header[3] - len(text)
                return (waiting.body + text if is_next else text)[-LIVE_BYTES:]
        return text

    def _thin(self) -> None:
        """Under the lock: drop every second frame of points, but for the last."""
        kept: list[_Waiting] = []
        lost, is_odd = 0, False
        points = [waiting for waiting in self._waiting if waiting.has_points]
        for waiting in self._waiting:
            if not waiting.has_points:
                kept.append(waiting)
                continue
            is_odd = not is_odd
            if is_odd and waiting is not points[-1]:
                lost += waiting.header[4] + waiting.body.count(b"\n")
                continue
            *rest, dropped = waiting.header
            kept.append(waiting._replace(header=[*rest, dropped + lost]))
            lost = 0
        self._waiting = kept[-_MAX_WAITING:]
