"""A process that runs user code: ``python -P -m queue_eval.child PIPE LIFELINE``.

It reads frames from PIPE (a socket), runs the run function, and answers each with one report. With one
thread the run function runs in the main thread, so that user code may set signal handlers; with more, N
threads take from one queue. It imports as little as it can: it starts for every attempt of ``subprocess``,
and user packages named like ours must not be shadowed.

The process dies with its parent, with all it has forked and even while user code holds the GIL: the kernel
sends SIGKILL to its process group when the parent's end of LIFELINE closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any

from queue_eval.codec import decode, encode_result
from queue_eval.errors import FunctionError, ResultError
from queue_eval.function_ref import load, source_hash
from queue_eval.pipe import (
    ERROR_BYTES,
    OUTPUT_BYTES,
    READY,
    FrameBuffer,
    Report,
    Setup,
    bounded,
    frame,
    parse_setup,
)

_READ_BYTES = 1 << 20


def main() -> None:
    pipe_fd, lifeline_fd = int(sys.argv[1]), int(sys.argv[2])
    _die_with_parent(lifeline_fd)
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


def _die_with_parent(lifeline_fd: int) -> None:
    os.set_inheritable(lifeline_fd, False)
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline_fd, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
        fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
        try:
            gone = os.read(lifeline_fd, 1) == b""  # it may have died before the signal was armed
        except BlockingIOError:
            gone = False
        if gone:
            os._exit(1)
        return

    def watch() -> None:
        os.read(lifeline_fd, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


class _Child:
    """Serves one pipe until its end. Reports are sent whole, under a lock, in the order attempts end."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._send_lock = threading.Lock()
        self._setup: Setup | None = None
        self._function: Any = None
        self._source = ""
        self._broken: FunctionError | None = None
        self._waiting: queue.SimpleQueue[tuple[int, int, bytes]] = queue.SimpleQueue()
        self._output: _ThreadOutput | None = None
        self._pid = os.getpid()
        self._surroundings = _Surroundings()

    def serve(self) -> None:
        frames = FrameBuffer()
        while data := self._pipe.recv(_READ_BYTES):
            for header, body in frames.feed(data):
                if header[0] == "setup":
                    self._prepare(parse_setup(header, body))
                elif self._output is not None:
                    self._waiting.put((header[1], header[2], body))
                else:
                    self._run(header[1], header[2], body)

    def _prepare(self, setup: Setup) -> None:
        self._setup = setup
        try:
            self._function = load(setup.name, setup.payload, setup.path)
            self._source = source_hash(self._function)
        except FunctionError as error:
            self._broken = error
        self._pipe.sendall(frame((READY,)))
        if setup.threads > 1:
            # File descriptors are shared by the threads: what each prints is kept apart in Python.
            self._output = _ThreadOutput()
            sys.stdout = sys.stderr = self._output
            for i in range(setup.threads):
                threading.Thread(target=self._run_forever, name=f"slot-{i}", daemon=True).start()

    def _run_forever(self) -> None:
        try:
            while True:
                self._run(*self._waiting.get())
        finally:
            os._exit(1)  # a slot that is gone must be seen by the parent

    def _run(self, job: int, attempt: int, config: bytes) -> None:
        begun = time.perf_counter()
        try:
            outcome, body = "ok", self._call(job, config).encode()
        except BaseException as error:  # user code may raise anything, SystemExit and KeyboardInterrupt too
            text = _describe(error).encode("utf-8", "backslashreplace")
            outcome, body = "error", bounded(text, ERROR_BYTES)
        run_ms = (time.perf_counter() - begun) * 1000
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of user code came back here; only the original may report and go on
        output = b""
        if self._output is not None:
            output = self._output.take()
        else:
            self._surroundings.restore()  # flushes into the pipe that the parent reads, before the report
        report = Report(job, attempt, outcome, run_ms, self._source, body, output)
        with self._send_lock:
            self._pipe.sendall(report.encode())

    def _call(self, job: int, config: bytes) -> str:
        if self._broken is not None:
            raise self._broken
        assert self._setup is not None
        arguments = decode(config)
        arguments["id"] = job
        return encode_result(self._function(arguments, **self._setup.kwargs))


def _describe(error: BaseException) -> str:
    """A traceback without our own frames; the text ends with the error itself."""
    if isinstance(error, (FunctionError, ResultError)) and error.__cause__ is None:
        return f"{type(error).__name__}: {error}"
    import traceback

    try:
        lines = traceback.TracebackException.from_exception(error)
        lines.stack = traceback.StackSummary.from_list(
            [line for line in lines.stack if os.path.dirname(line.filename) != _HERE]  # noqa: PTH120
        )
        return "".join(lines.format())
    except Exception:  # a hostile __str__ must not lose the attempt
        return f"{type(error).__name__} (its traceback cannot be shown)"


_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no pathlib in this process


class _Surroundings:
    """What user code may change and the next attempt must find again: working directory, stdout, stderr."""

    def __init__(self) -> None:
        self._folder = os.getcwd()  # noqa: PTH109 - no pathlib in this process
        self._streams = (sys.stdout, sys.stderr)
        self._copies = (os.dup(1), os.dup(2))

    def restore(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have closed or replaced it
                stream.flush()
        for fd, copy in zip((1, 2), self._copies, strict=True):
            try:
                os.fstat(fd)
            except OSError:
                os.dup2(copy, fd)
        if (sys.stdout, sys.stderr) != self._streams or any(stream.closed for stream in self._streams):
            self._streams = (_open_stream(1, self._copies[0]), _open_stream(2, self._copies[1]))
            sys.stdout, sys.stderr = self._streams
        try:
            if os.getcwd() != self._folder:  # noqa: PTH109
                os.chdir(self._folder)
        except OSError:  # one of the two folders was removed
            pass


def _open_stream(fd: int, copy: int) -> io.TextIOWrapper:
    os.dup2(copy, fd)
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class _ThreadOutput(io.TextIOBase):
    """What each thread of the process prints, kept apart and bounded."""

    def __init__(self) -> None:
        self._local = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        kept: bytearray | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = bytearray()
        kept += text.encode("utf-8", "backslashreplace")
        if len(kept) > 4 * OUTPUT_BYTES:
            kept[:] = bounded(bytes(kept), OUTPUT_BYTES)
        return len(text)

    def take(self) -> bytes:
        kept = bytes(getattr(self._local, "kept", None) or b"")
        self._local.kept = None
        return bounded(kept, OUTPUT_BYTES)

    def close(self) -> None:
        """User code may close stdout; the next attempt prints again."""


if __name__ == "__main__":
    main()
