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
    Kept,
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
        self._broken = ""
        self._waiting: queue.SimpleQueue[tuple[int, int, bytes]] = queue.SimpleQueue()
        self._recalled: set[tuple[int, int]] = set()
        self._output: _ThreadOutput | None = None
        self._pid = os.getpid()
        self._surroundings = _Surroundings()

    def serve(self) -> None:
        frames = FrameBuffer()
        while True:
            # Whatever has come is read before the next attempt begins: it may have been recalled.
            may_wait = self._output is not None or self._waiting.empty()
            with contextlib.suppress(BlockingIOError):
                data = self._pipe.recv(_READ_BYTES, 0 if may_wait else socket.MSG_DONTWAIT)
                if not data:
                    return
                for header, body in frames.feed(data):
                    self._receive(header, body)
            if self._output is None and not self._waiting.empty():
                self._run(*self._waiting.get())

    def _receive(self, header: list[Any], body: bytes) -> None:
        if header[0] == "setup":
            self._prepare(parse_setup(header, body))
        elif header[0] == "recall":
            self._recalled.update((job, attempt) for job, attempt in header[1])
        else:
            self._waiting.put((header[1], header[2], body))

    def _prepare(self, setup: Setup) -> None:
        self._setup = setup
        try:
            self._function = load(setup.name, setup.payload, setup.path)
            self._source = source_hash(self._function)
        except FunctionError as error:
            # As text: an exception that is raised again for each attempt collects a traceback without end.
            self._broken = _describe(error)
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
        if (job, attempt) in self._recalled:
            return
        begun = time.perf_counter()
        try:
            outcome, text = "ok", self._call(job, config)
        except BaseException as error:  # user code may raise anything, SystemExit and KeyboardInterrupt too
            outcome, text = "error", self._broken or _describe(error)
        body = text.encode("utf-8", "backslashreplace")
        if outcome == "error":
            body = bounded(body, ERROR_BYTES)
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
        if self._broken:
            raise FunctionError(self._broken)
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
        shown = traceback.TracebackException.from_exception(error)
        chain: list[Any] = [shown]
        for link in chain:
            link.stack = traceback.StackSummary.from_list(
                [line for line in link.stack if not _is_ours(line.filename)]
            )
            chain += [other for other in (link.__cause__, link.__context__) if other is not None]
            chain += link.exceptions or ()
        return "".join(shown.format())
    except Exception:  # a hostile __str__ must not lose the attempt
        return f"{type(error).__name__} (its traceback cannot be shown)"


def _is_ours(file: str) -> bool:
    """Frames that tell a user nothing: this package's, and those of the import system."""
    return os.path.dirname(file) == _HERE or file.startswith(("<frozen importlib", _IMPORTLIB))  # noqa: PTH120


_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no pathlib in this process
_IMPORTLIB = os.path.join(os.path.dirname(os.__file__), "importlib")  # noqa: PTH118, PTH120


class _Surroundings:
    """What the next attempt must find again: working directory, stdout, stderr, no alarm.

    Both streams write at each line, so that the last words of a process that dies are known, and write what
    is not valid text escaped rather than fail.
    """

    def __init__(self) -> None:
        self._folder = os.getcwd()  # noqa: PTH109 - no pathlib in this process
        self._copies = (os.dup(1), os.dup(2))
        self._streams = (_open_stream(1), _open_stream(2))
        sys.stdout, sys.stderr = self._streams
        # Whoever falls back on these is to be heard in the right order.
        sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]

    def restore(self) -> None:
        # A forgotten alarm would go off in somebody else's attempt.
        signal.setitimer(signal.ITIMER_REAL, 0)
        for stream in (*self._streams, sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have closed or replaced it
                stream.flush()
        for fd, copy in zip((1, 2), self._copies, strict=True):
            if not _is_same_file(fd, copy):
                os.dup2(copy, fd)
        if (sys.stdout, sys.stderr) != self._streams or any(stream.closed for stream in self._streams):
            self._streams = (_open_stream(1), _open_stream(2))
            sys.stdout, sys.stderr = self._streams
        try:
            has_moved = os.getcwd() != self._folder  # noqa: PTH109
        except OSError:  # where it went is not there any more
            has_moved = True
        if has_moved:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)


def _is_same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # closed
        return False


def _open_stream(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class _ThreadOutput(io.TextIOBase):
    """What each thread of the process prints, kept apart and bounded."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._local = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        kept: Kept | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = Kept(OUTPUT_BYTES)
        kept.add(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def take(self) -> bytes:
        kept: Kept | None = getattr(self._local, "kept", None)
        self._local.kept = None
        return kept.take() if kept is not None else b""

    def close(self) -> None:
        """User code may close stdout; the next attempt prints again."""


if __name__ == "__main__":
    main()
