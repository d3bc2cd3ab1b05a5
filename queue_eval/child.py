"""A process that runs user code: ``python -P -m queue_eval.child PIPE LIFELINE``.

It reads frames from PIPE (a socket), runs the run function, and answers each with one report. With one
thread the run function runs in the main thread, so that user code may set signal handlers; with more, N
threads take from the pipe in turn. It imports as little as it can: it starts for every attempt of
``subprocess``, and user packages named like ours must not be shadowed.

The process dies with its parent, with all it has forked and even while user code holds the GIL: the kernel
sends SIGKILL to its process group when the parent's end of LIFELINE closes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import Any

from queue_eval.execution import RunFunction
from queue_eval.lifeline import die_with_parent
from queue_eval.pipe import READY, FrameBuffer, Report, frame, parse_setup
from queue_eval.surroundings import Surroundings, ThreadOutput

_READ_BYTES = 1 << 20


def main() -> None:
    pipe_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(lifeline_fd)
    pipe = socket.socket(fileno=pipe_fd)
    pipe.setblocking(True)
    os.set_inheritable(pipe_fd, False)
    # Interrupts of the terminal are the parent's affair.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [""]
    sys.modules["__main__"] = type(sys)("__main__")  # user code sees an empty main module, not this one
    _Child(pipe).serve()
    # A forked daemon thread or an atexit handler of user code must not keep the slot.
    os._exit(0)


class _Child:
    """Serves one pipe until its end. Reports are sent whole, under a lock, in the order attempts end."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._frames = FrameBuffer()
        self._read_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._function: RunFunction | None = None
        self._threads = 1
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._output: ThreadOutput | None = None
        self._pid = os.getpid()
        self._surroundings = Surroundings()

    def serve(self) -> None:
        while self._function is None:
            if not self._read(may_wait=True):
                return
        if self._threads == 1:
            self._work()
            return
        # File descriptors are shared by the threads: what each prints is kept apart in Python.
        self._output = ThreadOutput()
        sys.stdout = sys.stderr = self._output
        slots = [
            threading.Thread(target=self._work_or_exit, name=f"slot-{i}", daemon=True)
            for i in range(self._threads)
        ]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()

    def _work_or_exit(self) -> None:
        try:
            self._work()
        except BaseException:
            os._exit(1)  # a slot that is gone must be seen by the parent

    def _work(self) -> None:
        while (wanted := self._next()) is not None:
            self._run(*wanted)

    def _next(self) -> tuple[int, int, bytes] | None:
        """What is to begin now, in the order in which it came; None at the end of the pipe."""
        with self._read_lock:
            # Whatever has come is read before the next attempt begins: it may have been recalled.
            while self._read(may_wait=not self._waiting):
                if self._waiting:
                    return self._waiting.popleft()
        return None

    def _read(self, *, may_wait: bool) -> bool:
        """Take what has come. False at the end of the pipe."""
        try:
            data = self._pipe.recv(_READ_BYTES, 0 if may_wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        for header, body in self._frames.feed(data):
            self._receive(header, body)
        return bool(data)

    def _receive(self, header: list[Any], body: bytes) -> None:
        if header[0] == "setup":
            setup = parse_setup(header, body)
            self._threads = setup.threads
            self._function = RunFunction(setup)
            self._pipe.sendall(frame((READY,)))
        elif header[0] == "recall":
            recalled = {(job, attempt) for job, attempt in header[1]}
            self._waiting = deque(one for one in self._waiting if one[:2] not in recalled)
        else:
            self._waiting.append((header[1], header[2], body))

    def _run(self, job: int, attempt: int, config: bytes) -> None:
        assert self._function is not None
        begun = time.perf_counter()
        outcome, body = self._function(job, config)
        run_ms = (time.perf_counter() - begun) * 1000
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of user code came back here; only the original may report and go on
        output = b""
        if self._output is not None:
            output = self._output.take()
        else:
            self._surroundings.restore()  # flushes into the pipe that the parent reads, before the report
        report = Report(job, attempt, outcome, run_ms, self._function.source, body, output)
        with self._send_lock:
            self._pipe.sendall(report.encode())


if __name__ == "__main__":
    main()
