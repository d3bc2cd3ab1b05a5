"""The forwarder: a process that forwards attempts to Ray or RQ. This is what both kinds share.

::

    worker ──run, recall, stop, notice, close──▶ forwarder ──▶ Ray, RQ
           ◀──slots, trouble, begun, returned, report, what running attempts tell──

The worker itself never imports Ray or RQ: if such a library aborts, hangs or leaks, only this process is
affected.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from queue_eval.model.attempt import Attempt, Token
from queue_eval.runtime.lifeline import die_with_parent
from queue_eval.runtime.pipe import FrameBuffer, Kind, Report, Setup, frame, parse_setup
from queue_eval.runtime.stop_signals import StopSignalHandlers

_READ_BYTES = 1 << 20


class Backend(Protocol):
    """Executes forwarded attempts. Its methods are called from one thread, and do not wait long."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Forward the attempts. Each is reported or returned later, unless it is stopped."""

    def recall(self, tokens: Sequence[Token]) -> None:
        """Take back the attempts that have not begun: they are returned. The others are reported as usual."""

    def stop(self, tokens: Sequence[Token]) -> None:
        """End the attempts, begun or not. They are neither reported nor returned."""

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        """Let `stop_requested` of the attempts show `word`, also of those that have not begun."""

    def close(self) -> None:
        """End all forwarded attempts."""


class Outlet:
    """Sends the messages of a backend to the worker. May be used from several threads."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def slots(self, count: int, why: str = "") -> None:
        """There is room for `count` attempts from now on; 0 while the backend is away."""
        self._send(frame((Kind.SLOTS, count, why)))

    def trouble(self, why: str) -> None:
        """Why forwarded attempts do not begin; "" when they do again."""
        self._send(frame((Kind.TROUBLE, why)))

    def begun(self, tokens: Iterable[Token]) -> None:
        """The execution of these attempts has begun."""
        self._send(frame((Kind.BEGUN, list(tokens))))

    def returned(self, tokens: Iterable[Token]) -> None:
        """These attempts have not begun and will not."""
        self._send(frame((Kind.RETURNED, list(tokens))))

    def tell(self, frames: bytes) -> None:
        """What running attempts tell of themselves: frames, as they come from a child."""
        self._send(frames)

    def report(self, reports: Iterable[Report]) -> None:
        """These attempts have ended."""
        self._send(b"".join(report.encode() for report in reports))

    def _send(self, data: bytes) -> None:
        with self._lock:
            try:
                self._pipe.sendall(data)
            except OSError:  # the worker is gone
                os._exit(1)


def run_guarded(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends the process when it fails. The worker then starts another process, and
    knows which attempts were lost."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=run, name=work.__name__, daemon=True).start()


def serve(make_backend: Callable[[Setup, Outlet], Backend]) -> None:
    """Serve the pipe that the command line names until the pipe ends; does not return."""
    pipe_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(lifeline_fd)
    # Processes that this one starts must not keep the pipe open.
    os.set_inheritable(pipe_fd, False)
    StopSignalHandlers()
    pipe = socket.socket(fileno=pipe_fd)
    pipe.setblocking(True)
    outlet = Outlet(pipe)
    frames = FrameBuffer()
    backend: Backend | None = None
    while data := pipe.recv(_READ_BYTES):
        attempts: list[Attempt] = []
        for header, body in frames.feed(data):
            if header[0] == Kind.RUN:
                attempts.append(Attempt((header[1], header[2]), body, *header[3:]))
                continue
            if header[0] == Kind.SETUP:
                backend = make_backend(parse_setup(header, body), outlet)
                continue
            assert backend is not None
            if attempts:  # keep the order of arrival
                backend.submit(attempts)
                attempts = []
            if header[0] == Kind.CLOSE:
                backend.close()
                os._exit(0)
            if header[0] == Kind.NOTICE:
                backend.notify([(job, attempt) for job, attempt in header[2]], header[1])
                continue
            call = {Kind.RECALL: backend.recall, Kind.STOP: backend.stop}[header[0]]
            call([(job, attempt) for job, attempt in header[1]])
        if attempts:
            assert backend is not None
            backend.submit(attempts)
    os._exit(0)
