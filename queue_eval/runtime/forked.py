"""One attempt in a process forked for it, for hosts that are others' processes and must outlive user code.

::

    host ──fork──▶ child: loads the run function, runs it
         ◀─ready, report── pipe
         ◀─what it prints── output
         ◀─left── pipe: something that user code has started still runs
         ──lifeline──▶ the child's process group is killed when the host dies, whatever it is doing

The child gets nothing of the host but the standard streams that are made for it: what else is open there is
hidden, or user code could speak on the host's connections.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from typing import NoReturn

from queue_eval.marks import INSIDE_JOB, STARTED_BY
from queue_eval.runtime.environment import Surroundings, hide_program
from queue_eval.runtime.execution import RunFunction
from queue_eval.runtime.failure_texts import (
    CUT_OFF,
    LOADING_S,
    describe_death,
    describe_exit,
    describe_lateness,
)
from queue_eval.runtime.leftovers import CAN_BE_FOUND, Ending, adopt_orphans, has_children
from queue_eval.runtime.lifeline import die_with_parent
from queue_eval.runtime.pipe import (
    OUTPUT_BYTES,
    FrameBuffer,
    Kept,
    Kind,
    Report,
    Setup,
    encode_ready,
    frame,
    parse_report,
)
from queue_eval.runtime.stop_signals import blocked, reset_signals

_TICK_S = 0.2
"""Where no file descriptor tells of a process's death it is looked for this often."""

_DEATH_S = 0.5
"""How long a process may take to die whose end of the pipe has closed."""

_READ_BYTES = 1 << 16


class ForkedAttempt:
    """Runs one attempt: `run` returns its report, or None when `stop` ended it.

    Guarantees: whatever user code does, `run` returns, and then nothing lives that it has started (see
    `leftovers`); also when `run` is left by an exception of a signal handler. Assumes: it is called in the
    main thread of a process that waits for none of its children itself.
    """

    def __init__(
        self, setup: Setup, job: int, attempt: int, config: bytes, time_limit_s: float | None
    ) -> None:
        self._setup = setup
        self._token = (job, attempt)
        self._config = config
        self._time_limit_s = time_limit_s
        self._lock = threading.Lock()
        self._mark = f"{os.environ.get(STARTED_BY, '')}/{os.urandom(8).hex()}".strip("/")
        self._pid = 0
        self._stopped = False
        self._ready = False
        self._has_left = False
        self._was_cut_off = False
        self._broken = False
        self._report: Report | None = None
        self._output = Kept(OUTPUT_BYTES)
        self._frames = FrameBuffer()
        self._status: int | None = None

    def stop(self) -> None:
        """End it; may be called from any thread, at any time."""
        with self._lock:
            self._stopped = True
            self._kill()

    def run(self) -> Report | None:
        pipe, childs_pipe = socket.socketpair()
        lifeline_read, lifeline = os.pipe()
        output, output_write = os.pipe()
        for stream in (sys.stdout, sys.stderr):  # or the child says it again
            with contextlib.suppress(Exception):
                stream.flush()
        begun_at = time.monotonic()
        with self._lock, warnings.catch_warnings():
            # A host with threads: the child takes none of their locks, and runs nothing of theirs.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            with blocked():
                pid = os.fork()
                if pid == 0:
                    self._be_child(childs_pipe, lifeline_read, output_write)
            self._pid = pid
            if self._stopped:
                self._kill()
        childs_pipe.close()
        os.close(lifeline_read)
        os.close(output_write)
        try:
            timed_out = self._watch(pipe, output, begun_at)
        finally:
            # Whose end of the pipe is closed dies in a moment, unless user code has closed it.
            self._was_cut_off = self._broken and not self._dies_within(_DEATH_S)
            with self._lock:
                self._kill()
                if self._status is None:
                    self._status = os.waitpid(pid, 0)[1]
                self._pid = 0
            with contextlib.suppress(OSError):
                self._read(pipe)  # it may have spoken before it died
                self._read_output(output)
            pipe.close()
            if self._report is None or self._has_left:
                Ending(self._mark, pid).run(meanwhile=lambda: self._read_output(output))
            # Not before: what was left may print at its end, and resource trackers are in the child's group.
            os.close(output)
            os.close(lifeline)
        return self._conclude((time.monotonic() - begun_at) * 1000, timed_out)

    # In the host ------------------------------------------------------------------------------------------

    def _watch(self, pipe: socket.socket, output: int, begun_at: float) -> bool:
        """Until it has reported, died, was stopped or ran out of time; whether the last."""
        pipe.setblocking(False)
        os.set_blocking(output, False)
        pidfd = os.pidfd_open(self._pid) if hasattr(os, "pidfd_open") else None
        deadline = None if self._time_limit_s is None else begun_at + self._time_limit_s + LOADING_S
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(output, selectors.EVENT_READ)
            if pidfd is not None:
                selector.register(pidfd, selectors.EVENT_READ)
            try:
                while not (self._report or self._broken or self._is_dead()):
                    now = time.monotonic()
                    if deadline is not None and now >= deadline:
                        return True
                    pause_s = None if pidfd is not None else _TICK_S
                    if deadline is not None:
                        pause_s = min(deadline - now, pause_s or deadline - now)
                    was_ready = self._ready
                    for key, _ in selector.select(pause_s):
                        if key.fileobj is pipe:
                            self._read(pipe)
                        elif key.fd == output and not self._read_output(output):
                            selector.unregister(output)
                    if self._ready and not was_ready and self._time_limit_s is not None:
                        # Loading the run function does not count as running.
                        deadline = time.monotonic() + self._time_limit_s
            finally:
                if pidfd is not None:
                    os.close(pidfd)
        return False

    def _read(self, pipe: socket.socket) -> None:
        """Take what it has said; what is no frame was written by user code, and ends it."""
        try:
            while data := pipe.recv(_READ_BYTES):
                for header, body in self._frames.feed(data):
                    if header[0] == Kind.READY:
                        self._ready = True
                    elif header[0] == Kind.LEFT:
                        self._has_left = True
                    else:
                        self._report = parse_report(header, body)
        except BlockingIOError:
            return
        except (OSError, ValueError, TypeError):
            pass
        self._broken = self._report is None

    def _read_output(self, output: int) -> bool:
        """Take what it has printed; whether there may be more to come."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(4):
                if not (data := os.read(output, _READ_BYTES)):
                    return False
                self._output.add(data)
        return True

    def _is_dead(self) -> bool:
        with self._lock:
            if self._status is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    if not CAN_BE_FOUND:
                        # Its group may live on, and keeps the number from being used again while it does.
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.killpg(self._pid, signal.SIGKILL)
                    self._status = status
            return self._status is not None

    def _dies_within(self, time_s: float) -> bool:
        deadline = time.monotonic() + time_s
        while not (is_dead := self._is_dead()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return is_dead

    def _kill(self) -> None:
        """Kill the process itself; its group, too, where what it leaves cannot be found."""
        if self._pid == 0 or self._status is not None:
            return
        if not CAN_BE_FOUND:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has none of its own yet
                os.killpg(self._pid, signal.SIGKILL)
        os.kill(self._pid, signal.SIGKILL)

    def _conclude(self, run_ms: float, timed_out: bool) -> Report | None:
        output = self._output.take()
        report = self._report
        if report is not None:
            return Report(*self._token, report.outcome, report.run_ms, report.source, report.body, output)
        if self._stopped:
            return None
        if timed_out:
            assert self._time_limit_s is not None
            body = describe_lateness(self._time_limit_s, was_ready=self._ready)
            return Report(*self._token, "timeout", run_ms, "", body, output)
        assert self._status is not None
        death = CUT_OFF if self._was_cut_off else describe_exit(os.waitstatus_to_exitcode(self._status))
        body = describe_death("ran this job", death, output)
        return Report(*self._token, "lost", run_ms, "", body, output)

    # In the child -----------------------------------------------------------------------------------------

    def _be_child(self, pipe: socket.socket, lifeline: int, output: int) -> NoReturn:
        try:
            os.setsid()
            _hide_descriptors(pipe.fileno(), lifeline, output)
            die_with_parent(lifeline)
            # What user code finds is a process of its own.
            reset_signals()
            random.seed()
            hide_program()
            self._serve(pipe)
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
            os._exit(1)
        os._exit(0)  # neither the host's nor the user's exit handlers are to run

    def _serve(self, pipe: socket.socket) -> None:
        os.environ[INSIDE_JOB] = (self._setup.forward or {}).get("campaign", "")
        os.environ[STARTED_BY] = self._mark
        adopt_orphans()
        surroundings = Surroundings()
        pid = os.getpid()
        function = RunFunction(self._setup)
        pipe.sendall(encode_ready(function.load_error))
        begun = time.perf_counter()
        outcome, body = function(self._token[0], self._config)
        run_ms = (time.perf_counter() - begun) * 1000
        if os.getpid() != pid:
            os._exit(0)  # a fork of user code came back here; only the original may report
        surroundings.flush()
        if has_children():
            pipe.sendall(frame((Kind.LEFT,)))
        pipe.sendall(Report(*self._token, outcome, run_ms, function.source, body, b"").encode())


def _hide_descriptors(pipe: int, lifeline: int, output: int) -> None:
    """Leave the standard streams and these open. The numbers of the others stay taken: objects of the host
    may still close them, which must not hit what user code has opened."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for fd in _open_descriptors():
        if fd > 2 and fd not in (pipe, lifeline, null):
            os.dup2(null, fd, inheritable=False)


def _open_descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            found = [int(name) for name in os.listdir(folder)]  # noqa: PTH208 - no pathlib in this process
            return [fd for fd in found if _is_open(fd)]  # the folder's own is closed by now
    return [fd for fd in range(min(os.sysconf("SC_OPEN_MAX"), 4096)) if _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
