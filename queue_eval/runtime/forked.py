"""Runs one attempt in a fork of the current process, which belongs to others and must outlive user code.

::

    host ──fork──▶ child: loads the run function, runs it
         ◀─ready, what it tells, report── pipe
         ◀─what it prints── output
         ◀─left── pipe: something that user code has started still runs
         ◀─what its forks tell── mailbox;  ──a file──▶ what `stop_requested` shows
         ──lifeline──▶ the child's process group is killed when the host dies, whatever it is doing

The child gets new standard streams. All other open files of the host are hidden from it: user code could
write into the host's connections.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from queue_eval.marks import INSIDE_JOB, STARTED_BY
from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.runtime import attempts
from queue_eval.runtime.environment import ProcessEnvironment, hide_program
from queue_eval.runtime.execution import RunFunction, concluded
from queue_eval.runtime.failure_texts import (
    CUT_OFF,
    LOADING_S,
    describe_death,
    describe_exit,
    describe_lateness,
)
from queue_eval.runtime.leftovers import CAN_BE_FOUND, Termination, adopt_orphans, has_children
from queue_eval.runtime.lifeline import die_with_parent
from queue_eval.runtime.mailroom import Mailroom
from queue_eval.runtime.pipe import (
    MAX_DATAGRAM_BYTES,
    OUTPUT_BYTES,
    RUNNING,
    FrameBuffer,
    HeadTail,
    Kind,
    Report,
    Setup,
    encode_ready,
    frame,
    parse_report,
)
from queue_eval.runtime.print_teller import EVERY_S, NOT_BEFORE_S
from queue_eval.runtime.stop_signals import blocked, reset_signals

_TICK_S = 0.2
"""How often to check whether the child has died, on systems without pidfds."""

_DEATH_S = 0.5
"""How long a process may take to die after its end of the pipe has closed."""

_READ_BYTES = 1 << 16

_OPENING_S = 2.0
"""How long a child waits for its mailbox. Without it, its forks cannot report."""


class ForkedAttempt:
    """Runs one attempt: `run` returns its report, or None when `stop` ended it.

    Guarantees: whatever user code does, `run` returns, and then no process lives that it has started (see
    `leftovers`). This also holds when an exception of a signal handler ends `run`. Assumes: it is called in
    the main thread of a process that does not wait for its children itself.
    """

    def __init__(
        self, setup: Setup, job: int, attempt: int, config: bytes, time_limit_s: float | None, *,
        slots: int = 1, open_mailroom: Callable[[], Mailroom | None] = lambda: None,
        take: Callable[[list[Any], bytes], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """`take` gets the frames by which the attempt tells of itself, while `run` runs; it must not block.
        `open_mailroom`: makes the one that `setup.inside` names, when it is needed."""
        self._setup = setup
        self._slots = slots
        self._open_mailroom = open_mailroom
        self._mailroom: Mailroom | None = None
        self._take = take
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
        self._output = HeadTail(OUTPUT_BYTES)
        self._is_live = bool((setup.inside or {}).get("live"))
        self._told_bytes = 0
        """How many bytes the attempt had printed when it was last told of."""
        self._tell_at = 0.0
        self._frames = FrameBuffer()
        self._status: int | None = None

    def stop(self) -> None:
        """End the attempt. May be called from any thread, at any time."""
        with self._lock:
            self._stopped = True
            self._kill()

    def run(self) -> Report | None:
        pipe, childs_pipe = socket.socketpair()
        lifeline_read, lifeline = os.pipe()
        output, output_write = os.pipe()
        for stream in (sys.stdout, sys.stderr):  # or the child would print the buffered text again
            with contextlib.suppress(Exception):
                stream.flush()
        begun_at = time.monotonic()
        with self._lock, warnings.catch_warnings():
            # Python warns of forks in a host with threads. This child takes none of their locks and runs
            # none of their code.
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
            # A child whose end of the pipe has closed dies in a moment, unless user code has closed that end.
            self._was_cut_off = self._broken and not self._dies_within(_DEATH_S)
            with self._lock:
                self._kill()
                if self._status is None:
                    self._status = os.waitpid(pid, 0)[1]
                self._pid = 0
            self._read_mailbox()
            with contextlib.suppress(OSError):
                self._read(pipe)  # it may have sent its report before it died
                self._read_output(output)
            pipe.close()
            if self._report is None or self._has_left:
                Termination(self._mark, pid).run(meanwhile=lambda: self._read_output(output))
            # Close these last: leftovers may still print as they end, and closing the lifeline kills the
            # child's group, which has resource trackers.
            os.close(output)
            os.close(lifeline)
        return self._conclude((time.monotonic() - begun_at) * 1000, timed_out)

    # In the host ------------------------------------------------------------------------------------------

    def _watch(self, pipe: socket.socket, output: int, begun_at: float) -> bool:
        """Wait until the child has reported, died, was stopped or ran out of time. Returns whether it ran out
        of time."""
        pipe.setblocking(False)
        os.set_blocking(output, False)
        pidfd = os.pidfd_open(self._pid) if hasattr(os, "pidfd_open") else None
        deadline = None if self._time_limit_s is None else begun_at + self._time_limit_s + LOADING_S
        self._tell_at = begun_at + NOT_BEFORE_S
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
                    self._tell_printed(now)
                    pause_s = None if pidfd is not None else _TICK_S
                    if self._is_live and self._output.count > self._told_bytes:
                        pause_s = min(self._tell_at - now, pause_s or self._tell_at - now)
                    if deadline is not None:
                        pause_s = min(deadline - now, pause_s or deadline - now)
                    was_ready = self._ready
                    for key, _ in selector.select(pause_s):
                        if key.fileobj is pipe:
                            self._read(pipe)
                            if self._mailroom is not None and self._mailroom not in selector.get_map():
                                selector.register(self._mailroom, selectors.EVENT_READ)
                        elif key.fileobj is self._mailroom:
                            self._read_mailbox()
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
        """Handle the frames that have arrived. Bytes that are no frame come from user code, and end the
        attempt."""
        try:
            while data := pipe.recv(_READ_BYTES):
                for header, body in self._frames.feed(data):
                    if header[0] == Kind.READY:
                        self._ready = True
                    elif header[0] == Kind.LEFT:
                        self._has_left = True
                    elif header[0] == Kind.OPEN:
                        self._mailroom = self._open_mailroom()
                    elif header[0] in RUNNING:
                        self._hear(header, body)
                    else:
                        self._report = parse_report(header, body)
        except BlockingIOError:
            return
        except (OSError, ValueError, TypeError):
            pass
        self._broken = self._report is None

    def _read_mailbox(self) -> None:
        """Handle what other processes of the attempt have sent."""
        for _, header, body in self._mailroom.receive() if self._mailroom is not None else ():
            with contextlib.suppress(ValueError, TypeError):
                self._hear(header, body)

    def _hear(self, header: list[Any], body: bytes) -> None:
        if tuple(header[1:3]) != self._token or len(body) > MAX_DATAGRAM_BYTES:
            raise ValueError("not a frame of this attempt")
        self._take(header, body)

    def _read_output(self, output: int) -> bool:
        """Take the output that has arrived. Returns False at the end of the pipe."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(4):
                if not (data := os.read(output, _READ_BYTES)):
                    return False
                self._output.add(data)
        return True

    def _tell_printed(self, now: float) -> None:
        new = self._output.count - self._told_bytes
        if self._is_live and new and now >= self._tell_at:
            self._tell_at = now + EVERY_S
            self._told_bytes = self._output.count
            header = [Kind.PRINTED, *self._token, self._output.count]
            self._take(header, self._output.newest(min(new, LIVE_BYTES)))

    def _is_dead(self) -> bool:
        with self._lock:
            if self._status is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    if not CAN_BE_FOUND:
                        # Its group may live on. As long as it does, the group's number is not used again.
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
        """Kill the process; also its group, on systems where its leftovers cannot be found."""
        if self._pid == 0 or self._status is not None:
            return
        if not CAN_BE_FOUND:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group of its own yet
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
            # User code must find a process as if Python had just begun.
            reset_signals()
            random.seed()
            hide_program()
            self._serve(pipe)
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
            os._exit(1)
        os._exit(0)  # exit handlers must not run, neither the host's nor the user's

    def _serve(self, pipe: socket.socket) -> None:
        os.environ[INSIDE_JOB] = (self._setup.forward or {}).get("campaign", "")
        os.environ[STARTED_BY] = self._mark
        adopt_orphans()
        environment = ProcessEnvironment()
        pid = os.getpid()
        function = RunFunction(self._setup)
        pipe.sendall(encode_ready(function.load_error))
        tell = _Teller(pipe)
        running = attempts.Attempt(*self._token, self._config, self._slots, self._setup.inside, tell)
        if self._setup.inside is not None:
            running.prepare = _Opening(tell, self._setup.inside["mailbox"])
            os.register_at_fork(before=running.prepare)
        attempts.begin(running)
        begun = time.perf_counter()
        outcome, body = concluded(running, *function(self._token[0], self._config))
        run_ms = (time.perf_counter() - begun) * 1000
        running.finish()
        if os.getpid() != pid:
            os._exit(0)  # a fork of user code came back here; only the original may report
        environment.flush()
        if has_children():
            tell.send(frame((Kind.LEFT,)))
        tell.send(Report(*self._token, outcome, run_ms, function.source, body, b"").encode())


class _Teller:
    """Sends frames of the child, each whole (`attempts.Send`). Thread-safe."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __call__(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        data = frame(header, body)
        with self._lock:
            if not wait and not self._has_room():
                return False
            self._pipe.sendall(data)
        return True

    def send(self, data: bytes) -> None:
        with self._lock:
            self._pipe.sendall(data)

    def _has_room(self) -> bool:
        room = select.poll()
        room.register(self._pipe, select.POLLOUT)
        return bool(room.poll(0))


class _Opening:
    """Has the mailbox made, once, before a process needs it. Most attempts need none."""

    def __init__(self, tell: _Teller, mailbox: str) -> None:
        self._tell = tell
        self._mailbox = mailbox
        self._pid = os.getpid()
        self._is_open = False

    def __call__(self) -> None:
        if self._is_open or os.getpid() != self._pid:
            return
        self._is_open = True
        with contextlib.suppress(OSError):
            self._tell.send(frame((Kind.OPEN,)))
            deadline = time.monotonic() + _OPENING_S
            while not os.path.lexists(self._mailbox) and time.monotonic() < deadline:
                time.sleep(0.001)


def _hide_descriptors(pipe: int, lifeline: int, output: int) -> None:
    """Point all descriptors but these and the standard streams to the null device. They stay taken: objects
    of the host may still close their numbers, and that must not close a file of user code."""
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
            return [fd for fd in found if _is_open(fd)]  # that of the listing itself is closed by now
    return [fd for fd in range(min(os.sysconf("SC_OPEN_MAX"), 4096)) if _is_open(fd)]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
