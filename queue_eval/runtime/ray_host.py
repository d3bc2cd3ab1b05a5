"""Runs attempts in a Ray worker's process, which belongs to others, and restores that process afterwards.

Ray sends this module to its workers by value. So it imports next to nothing, and of our modules only those
that are sent along.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from typing import Any

from queue_eval.marks import INSIDE_JOB
from queue_eval.runtime.environment import open_stream, working_folder
from queue_eval.runtime.execution import RunFunction, concluded
from queue_eval.runtime.pipe import OUTPUT_BYTES, Report, Setup, with_gap

_HANDLED: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
"""Signals whose handlers user code may have changed."""


class HostState:
    """A context manager around each attempt in a process that belongs to others: it captures what user code
    prints, and restores the process's state. The same object is entered again for each attempt."""

    def __init__(self, campaign: str) -> None:
        self._campaign = campaign
        # A file, not a pipe: nobody can read a pipe while user code holds the GIL and fills it.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the process
        self._pid = os.getpid()
        self._copies = (os.dup(1), os.dup(2))
        self._own = (open_stream(1), open_stream(2))

    def __enter__(self) -> HostState:
        self._folder = working_folder()
        self._inside_before = os.environ.get(INSIDE_JOB)
        os.environ[INSIDE_JOB] = self._campaign
        self._streams = (sys.stdout, sys.stderr)
        for stream in self._streams:
            with contextlib.suppress(Exception):
                stream.flush()
        self._handlers = [signal.getsignal(number) for number in _HANDLED]
        # Ray recalls tasks by an interrupt. A recalled attempt that has begun must go on to its end: user
        # code that catches the interrupt would return half a result as if it were whole. Attempts that must
        # end are killed instead.
        with contextlib.suppress(ValueError):  # raised in another thread, which is not interrupted anyway
            signal.signal(signal.SIGINT, _ignore)
        for fd in (1, 2):
            os.dup2(self._file.fileno(), fd)
        if any(stream.closed for stream in self._own):
            self._own = (open_stream(1), open_stream(2))
        sys.stdout, sys.stderr = self._own
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of user code came back here; only the original may go on
        if self._inside_before is None:
            os.environ.pop(INSIDE_JOB, None)
        else:
            os.environ[INSIDE_JOB] = self._inside_before
        signal.setitimer(signal.ITIMER_REAL, 0)
        for stream in (*self._own, sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have closed or replaced it
                stream.flush()
        sys.stdout, sys.stderr = self._streams
        for fd, copy in zip((1, 2), self._copies, strict=True):
            os.dup2(copy, fd)
        for number, handler in zip(_HANDLED, self._handlers, strict=True):
            if signal.getsignal(number) is not handler and handler is not None:
                with contextlib.suppress(ValueError):  # raised in any but the main thread
                    signal.signal(number, handler)
        if self._folder is not None and working_folder() != self._folder:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)

    @property
    def output_fd(self) -> int:
        """The file into which the attempt prints."""
        return self._file.fileno()

    def take_output(self) -> bytes:
        """What Python, C code and commands have printed since `__enter__`; the first and last half of
        OUTPUT_BYTES."""
        size = os.fstat(self._file.fileno()).st_size
        if size == 0:
            return b""
        output = self._read(size)
        self._file.seek(0)
        self._file.truncate()
        return output

    def _read(self, size: int) -> bytes:
        half = OUTPUT_BYTES // 2
        if size <= 2 * half:
            return os.pread(self._file.fileno(), size, 0)
        first, last = os.pread(self._file.fileno(), half, 0), os.pread(self._file.fileno(), half, size - half)
        return with_gap(first, size - 2 * half, last)


def _ignore(*_: object) -> None:
    """Does nothing. It is a handler, since the commands that user code runs would inherit `SIG_IGN`."""


class RayHost:
    """Runs attempts of one campaign in a Ray worker's process, one after the other. The first one loads the
    run function."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._function: RunFunction | None = None
        self._state: HostState | None = None
        self._elsewhere: Any = None
        """The module of the queue_eval that is installed here, which user code asks for `current_job`; False:
        there is none."""
        self._inside: dict[str, Any] | None = None

    def run(self, job: int, attempt: int, slots: int, config: bytes) -> bytes:
        """The report of one attempt, as a frame."""
        if self._state is None:
            self._state = HostState((self._setup.forward or {}).get("campaign", ""))
        with self._state:
            # Loaded within the block, since the function's module may print, too.
            function = self._function if self._function is not None else RunFunction(self._setup)
            # An interrupt may have stopped the loading: later attempts must not use a half-loaded function.
            self._function = None if function.was_interrupted else function
            running = self._begin(job, attempt, config, slots)
            end_telling = self._tell_prints(job, attempt)
            begun = time.perf_counter()
            outcome, body = function(job, config)
            run_ms = (time.perf_counter() - begun) * 1000
            if running is not None:
                outcome, body = concluded(running, outcome, body)
                self._elsewhere.end(running, failed=outcome == "error")
            if end_telling is not None:
                end_telling()
        output = self._state.take_output()
        return Report(job, attempt, outcome, run_ms, function.source, body, output).encode()

    def _begin(self, job: int, attempt: int, config: bytes, slots: int) -> Any:
        """The attempt, as `current_job` shows it; None where it cannot."""
        if self._elsewhere is None:
            try:
                self._elsewhere = import_module("queue_eval.runtime.elsewhere")
            except ImportError:
                self._elsewhere = False
        if not self._elsewhere or self._setup.inside is None:
            return None
        if self._inside is None:
            self._inside = self._elsewhere.from_elsewhere(self._setup.inside)
        return self._elsewhere.begin(self._inside, job, attempt, config, slots)

    def _tell_prints(self, job: int, attempt: int) -> Any:
        """Let the worker see what the attempt prints while it runs. Returns what ends that, or None."""
        # The queue_eval that is installed here may be of an earlier version.
        tell_prints = getattr(self._elsewhere, "tell_prints", None)
        if tell_prints is None or self._inside is None or self._state is None:
            return None
        return tell_prints(self._inside, job, attempt, self._state.output_fd)
