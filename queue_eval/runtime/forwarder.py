"""A process that forwards attempts to others: what the forwarders to Ray and to RQ share.

::

    worker ──run, recall, stop, close──▶ forwarder ──▶ Ray, RQ
           ◀──slots, trouble, begun, returned, report──

The worker's parent never imports what it forwards to: a library that aborts, hangs or leaks takes this
process with it and nothing else.
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
from queue_eval.runtime.stop_signals import Survival

_READ_BYTES = 1 << 20


class Backend(Protocol):
    """Where attempts are forwarded to. Its methods are called from one thread, and do not wait long."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Forward them. Each is reported or returned, unless it is stopped."""

    def recall(self, tokens: Sequence[Token]) -> None:
        """Take back what has not begun: it is returned, or else reported as usual."""

    def stop(self, tokens: Sequence[Token]) -> None:
        """End them, begun or not; nothing more is told of them."""

    def close(self) -> None:
        """End all that was forwarded."""


class Outlet:
    """What a backend tells the worker; may be used from several threads."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def slots(self, count: int, why: str = "") -> None:
        """There is room for `count` attempts from now on; none while what is forwarded to is away."""
        self._send(frame((Kind.SLOTS, count, why)))

    def trouble(self, why: str) -> None:
        """What is forwarded does not begin, and why; "" when it does again."""
        self._send(frame((Kind.TROUBLE, why)))

    def begun(self, tokens: Iterable[Token]) -> None:
        """The execution of these has begun."""
        self._send(frame((Kind.BEGUN, list(tokens))))

    def returned(self, tokens: Iterable[Token]) -> None:
        """These have not begun and will not."""
        self._send(frame((Kind.RETURNED, list(tokens))))

    def report(self, reports: Iterable[Report]) -> None:
        """These have ended."""
        self._send(b"".join(report.encode() for report in reports))

    def _send(self, data: bytes) -> None:
        with self._lock:
            try:
                self._pipe.sendall(data)
            except OSError:  # the worker is gone
                os._exit(1)


def run_guarded(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends the process when it fails: the worker starts another process, and
    knows what was lost."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=run, name=work.__name__, daemon=True).start()


def serve(make_backend: Callable[[Setup, Outlet], Backend]) -> None:
    """Serve the pipe that the command line names until its end; does not return."""
    pipe_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(lifeline_fd)
    # Whatever this process starts must not keep them open.
    os.set_inheritable(pipe_fd, False)
    Survival()
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
            if attempts:  # in the order in which they came
                backend.submit(attempts)
                attempts = []
            if header[0] == Kind.CLOSE:
                backend.close()
                os._exit(0)
            move = {Kind.RECALL: backend.recall, Kind.STOP: backend.stop}[header[0]]
            move([(job, attempt) for job, attempt in header[1]])
        if attempts:
            assert backend is not None
            backend.submit(attempts)
    os._exit(0)
