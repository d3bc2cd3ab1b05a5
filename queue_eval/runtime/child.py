"""A process that runs user code: ``python -P -c PROGRAM PIPE LIFELINE [armed] [tell-up] [tell-left]``; it
calls `main`.

It reads frames from PIPE (a socket), runs the run function, and answers each ``run`` with one report. With
one thread the run function runs in the main thread, so that user code may set signal handlers. With more, N
threads take from the pipe in turn.

It imports as little as it can: ``subprocess`` starts it for every attempt, and it must not shadow user
packages that are named like ours. Modules that only some children need are imported when they are needed.
Where the standard library wraps a C module, the C module is imported.

The process and all that it has forked die with the parent, even while user code holds the GIL: the kernel
sends SIGKILL to the process group when the parent's end of LIFELINE closes. With ``armed`` the parent has
arranged that before it sends the setup.

When the parent closes the pipe, the process ends as Python ends: it waits for threads, calls exit handlers,
and flushes files. The parent waits some seconds for that.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from _thread import allocate_lock, get_ident
from time import monotonic, perf_counter

from queue_eval.marks import STARTED_BY
from queue_eval.runtime import attempts
from queue_eval.runtime.environment import ProcessEnvironment, ThreadOutput, hide_program
from queue_eval.runtime.execution import RunFunction, concluded
from queue_eval.runtime.leftovers import Termination, adopt_orphans, has_children, reap_adopted
from queue_eval.runtime.pipe import (
    TELL_LEFT,
    TELL_UP,
    FrameBuffer,
    Kind,
    Report,
    encode_ready,
    frame,
    parse_setup,
)

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import _socket
    from typing import Any

_READ_BYTES = 1 << 16
"""Bytes per read. Larger buffers are mapped and unmapped for every read."""

_REAP_PAUSES_MS = (500, 30_000)
"""The pause between two checks for dead processes, in ms: the first one, and the longest."""

_RECALL_CHECK_EVERY_S = 0.0001
"""Between two attempts, the child looks for recalls at most this often."""


def main() -> None:
    pipe_fd, lifeline_fd, *more = sys.argv[1:]
    if "armed" not in more:
        from queue_eval.runtime.lifeline import die_with_parent

        die_with_parent(int(lifeline_fd))
    pipe = int(pipe_fd)
    for fd in (pipe, int(lifeline_fd)):
        os.set_inheritable(fd, False)
    hide_program()
    if TELL_LEFT not in more:  # the parent waits for nothing
        _Child(pipe, tells_up=TELL_UP in more).serve()
        os._exit(0)
    child = _Child(pipe, tells_up=TELL_UP in more, tells_left=True)
    # The handler that was registered first is called last: by then the exit handlers of user code have ended
    # their processes.
    atexit.register(child.tell_left)
    child.serve()


class _Child:
    """Serves one pipe until its end. Reports are sent whole, under a lock, in the order attempts end."""

    def __init__(self, pipe: int, *, tells_up: bool, tells_left: bool = False) -> None:
        self._pipe = pipe
        self._tells_up = tells_up
        self._tells_left = tells_left
        self._mark = os.environ.get(STARTED_BY, "")
        self._socket: _socket.socket | None = None
        """The same pipe as a socket, made when it is first read without waiting."""
        self._frames = FrameBuffer()
        self._function: RunFunction | None = None
        self._threads = 1
        self._inside: dict[str, Any] | None = None
        self._send_lock = allocate_lock()
        self._waiting: list[tuple[int, int, int, bytes]] = []
        self._checked_at = 0.0
        self._output: ThreadOutput | None = None
        self._pid = os.getpid()
        self._environment = ProcessEnvironment()

    def serve(self) -> None:
        while self._function is None:
            if not self._read(may_wait=True):
                return
        if self._threads == 1:
            while (wanted := self._next()) is not None:
                report = self._run(*wanted)
                if self._tells_left and has_children():
                    self._send(frame((Kind.LEFT,)) + report)
                    self._end_programs()
                    self._send(frame((Kind.TIDY,)))
                else:
                    self._send(report)
                self._environment.restore()
            return
        self._serve_with_threads()

    def tell_left(self) -> None:
        """Send `left` at the very end, if user code has left processes."""
        if os.getpid() == self._pid and has_children():
            try:  # noqa: SIM105 - contextlib takes a while to import
                self._send(frame((Kind.LEFT,)))
            except OSError:
                pass

    def _end_programs(self) -> None:
        """End what the attempt has left running in process groups of its own. The group of this process is
        spared: it has pools and resource trackers that the next attempt may use."""
        Termination(self._mark, self._pid, spared_group=os.getpgrp()).run()
        reap_adopted()

    def _serve_with_threads(self) -> None:
        import threading

        # All threads share the file descriptors, so Python keeps apart what each of them prints.
        is_live = self._inside is not None and self._inside.get("live")
        self._output = ThreadOutput(self._send_inside if is_live else None)
        sys.stdout = sys.stderr = self._output
        attempts.use_threads()
        read_lock = threading.Lock()

        def work() -> None:
            try:
                while True:
                    with read_lock:
                        wanted = self._next()
                    if wanted is None:
                        return
                    self._send(self._run(*wanted))
            except BaseException:
                os._exit(1)  # the parent must notice that a slot is gone

        slots = [threading.Thread(target=work, name=f"slot-{i}", daemon=True) for i in range(self._threads)]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()

    def _next(self) -> tuple[int, int, int, bytes] | None:
        """The (job, attempt, slots, config) that begins now, in order of arrival; None at the pipe's end."""
        # Read the pipe before the next attempt begins: that attempt may have been recalled. Do not read it
        # after an attempt that took no time: a recall so late could as well have come a moment later.
        if self._waiting and perf_counter() - self._checked_at < _RECALL_CHECK_EVERY_S:
            return self._waiting.pop(0)
        while self._read(may_wait=not self._waiting):
            if self._waiting:
                return self._waiting.pop(0)
        return None

    def _read(self, *, may_wait: bool) -> bool:
        """Handle the frames that have arrived. Returns False at the end of the pipe."""
        if may_wait:
            self._reap_while_idle()
            data: bytes | None = os.read(self._pipe, _READ_BYTES)
        else:
            data = self._read_available()
        if data is None:
            return True
        for header, body in self._frames.feed(data):
            self._receive(header, body)
        return bool(data)

    def _reap_while_idle(self) -> None:
        """Until a frame arrives, reap adopted processes as they end."""
        if not self._tells_left or self._threads > 1 or not has_children():
            return
        from select import POLLIN, poll

        pipe = poll()
        pipe.register(self._pipe, POLLIN)
        pause_ms = _REAP_PAUSES_MS[0]
        while not pipe.poll(pause_ms) and has_children():
            reap_adopted()
            pause_ms = min(2 * pause_ms, _REAP_PAUSES_MS[1])

    def _read_available(self) -> bytes | None:
        """The bytes that have arrived; None when there are none."""
        import _socket

        if self._socket is None:
            self._socket = _socket.socket(fileno=self._pipe)
        try:
            return self._socket.recv(_READ_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._checked_at = perf_counter()
            return None

    def _send(self, data: bytes) -> None:
        with self._send_lock:
            sent = os.write(self._pipe, data)
            while sent < len(data):
                sent += os.write(self._pipe, memoryview(data)[sent:])

    def _send_inside(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        """Send a frame of a running attempt (`attempts.Send`).

        A handler of user code may raise at any moment, and half a frame would break the pipe. So without
        `wait` the frame is written by one call, when there is room for it.
        """
        data = frame(header, body)
        if wait:
            self._send(data)
            return True
        import _socket

        with self._send_lock:
            if self._socket is None:
                self._socket = _socket.socket(fileno=self._pipe)
            try:
                sent = self._socket.send(data, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            while sent < len(data):  # Linux takes these lengths whole
                sent += os.write(self._pipe, memoryview(data)[sent:])
        return True

    def _receive(self, header: list[Any], body: bytes) -> None:
        if header[0] == Kind.SETUP:
            setup = parse_setup(header, body)
            self._threads = setup.threads
            self._inside = setup.inside
            # The objects of now live to the end: the GC then scans only what user code has made.
            gc.freeze()
            gc.enable()  # It was disabled while this process started.
            if self._tells_left and self._threads == 1:
                adopt_orphans()
            if self._tells_up:
                self._send(frame((Kind.UP,)))
            self._function = RunFunction(setup)
            self._send(encode_ready(self._function.load_error, self._function.source_parts))
        elif header[0] == Kind.RECALL:
            recalled = {(job, attempt) for job, attempt in header[1]}
            self._waiting = [attempt for attempt in self._waiting if attempt[:2] not in recalled]
        elif header[0] == Kind.RUN:
            _, job, attempt, *slots = header
            self._waiting.append((job, attempt, slots[0] if slots else 1, body))

    def _run(self, job: int, attempt: int, slots: int, config: bytes) -> bytes:
        """The report of one attempt, as a frame."""
        assert self._function is not None
        began = monotonic()
        attempts.begin((job, attempt, config, slots, self._inside, self._send_inside, began, get_ident()))
        outcome, body = self._function(job, config)
        run_ms = (monotonic() - began) * 1000
        if (running := attempts.end()) is not None:
            outcome, body = concluded(running, outcome, body)
            running.finish()
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of user code came back here; only the original may report and go on
        if self._output is not None:
            output = self._output.take()
        else:
            output = b""
            self._environment.flush()  # the output must reach the parent before the report
        return Report(job, attempt, outcome, run_ms, self._function.source, body, output).encode()


if __name__ == "__main__":  # a worker of an earlier version starts it so
    main()
