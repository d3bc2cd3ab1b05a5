"""A process on a pipe, from the worker's side: its frames, its output, its death."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.runtime.failure_texts import describe_exit
from queue_eval.runtime.lifeline import CAN_BE_ARMED, arm
from queue_eval.runtime.pipe import OUTPUT_BYTES, TELL_UP, FrameBuffer, HeadTail
from queue_eval.runtime.stop_signals import blocked

_READ_BYTES = 1 << 16
"""Python maps and unmaps memory for every read into a larger buffer."""

DEATHS_ARE_TOLD = hasattr(os, "pidfd_open")
"""Whether the system tells of a death. If not, processes must be asked whether they are dead."""

_SCARCE = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
"""There is no memory, process, file or watch left."""

_TEMPORARY = (*_SCARCE, errno.ETXTBSY)
"""As before, or the program is just being written."""


def is_scarcity(error: OSError) -> bool:
    """Whether a process could not be started because other processes take what it needs."""
    return error.errno in _SCARCE


def is_lasting(error: OSError) -> bool:
    """Whether a process that could not be started will fail to start the next time, too."""
    return error.errno not in _TEMPORARY


SECRETS = ("QUEUE_EVAL_KEY", "QUEUE_EVAL_URL")


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without our keys: user code may print it, log it, or send it elsewhere."""
    return {name: value for name, value in env.items() if name not in SECRETS}


class PipedProcess:
    """A process that speaks frames (`queue_eval.runtime.pipe`) over a socket and dies with this one.

    It is started as ``[*command, PIPE, LIFELINE, "armed", *flags]``, in a session of its own. Guarantees:
    once `kill` returns, the process and all it forked into its group are dead. Assumes: all calls come from
    the thread that owns the selector.
    """

    flags: tuple[str, ...] = (TELL_UP,)
    """Which frames this side understands, as the process is told."""

    def __init__(
        self, command: Sequence[str], selector: selectors.BaseSelector, env: Mapping[str, str] | None = None
    ) -> None:
        self.broken = False
        self._is_killed = False
        self._frames = FrameBuffer()
        self._outbox = bytearray()
        self._output = HeadTail(OUTPUT_BYTES)
        self._told_bytes = 0
        """How much of it `take_printed` has told."""
        self._selector = selector
        self._start(command, env)

    def _start(self, command: Sequence[str], env: Mapping[str, str] | None) -> None:
        armed = ("armed",) if CAN_BE_ARMED else ()
        self._watched: list[int] = []
        with contextlib.ExitStack() as passed, contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            passed.callback(theirs.close)
            lifeline_read, self._lifeline = os.pipe()
            undo.callback(os.close, self._lifeline)
            passed.callback(os.close, lifeline_read)
            self._output_fd, output_write = os.pipe()
            undo.callback(os.close, self._output_fd)
            passed.callback(os.close, output_write)
            with blocked():  # it starts with stop signals blocked, and admits them when it can survive them
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(lifeline_read), *armed, *self.flags],
                    stdin=subprocess.DEVNULL,
                    stdout=output_write,
                    stderr=output_write,
                    pass_fds=(theirs.fileno(), lifeline_read),
                    start_new_session=True,
                    env=_without_secrets(os.environ if env is None else env),
                )
            undo.callback(self._process.wait)
            undo.callback(self.begin_to_kill)
            if armed:
                # Arm before telling it anything: should this process die now, the child finds the pipe closed
                # and ends.
                arm(lifeline_read, self._process.pid)
            self._pipe = ours
            self._pipe.setblocking(False)
            os.set_blocking(self._output_fd, False)
            self._watch(self._pipe.fileno(), self._read)
            self._watch(self._output_fd, self.read_output)
            # When the process has forked, its pipe stays open after its death: watch the process, too.
            self._pidfd = os.pidfd_open(self._process.pid) if DEATHS_ARE_TOLD else None
            if self._pidfd is not None:
                undo.callback(os.close, self._pidfd)
                self._watch(self._pidfd, self._died)
            undo.pop_all()

    def _stir(self) -> None:
        """Called when the process has spoken or is broken."""

    def _break(self) -> None:
        self.broken = True
        self._stir()

    def _watch(self, fd: int, ready: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)
        self._watched.append(fd)

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._selector.unregister(fd)
            self._watched.remove(fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_dead(self) -> bool:
        return self.broken or self._process.poll() is not None

    def is_known_dead(self) -> bool:
        """Like `is_dead`, but without a system call where the system tells of deaths."""
        return self.broken or (self._pidfd is None and self.is_dead())

    def add(self, frame: bytes) -> None:
        """Add a frame to what the next `flush` sends."""
        self._outbox += frame

    def hear(self) -> None:
        """Read all that the process has sent by now."""
        while self._read():
            pass

    def flush(self) -> None:
        """Send the added frames in one system call, which wakes the process once."""
        if not self._outbox:
            return
        self._write()
        if self._outbox:
            self._selector.modify(
                self._pipe.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE, self._read_and_write
            )

    def take_output(self) -> bytes:
        self.read_output()
        self._told_bytes = 0
        return self._output.take(self._end_output())

    def take_printed(self) -> tuple[int, bytes] | None:
        """How many bytes came since `take_output`, and the newest of those that are new to this call; None
        without new ones. Reads nothing."""
        count = self._output.count
        if count == self._told_bytes:
            return None
        text = self._output.newest(min(LIVE_BYTES, count - self._told_bytes))
        self._told_bytes = count
        return count, text

    def read_output(self) -> None:
        # Read more than a pipe holds, but not without end: other processes must be read, too.
        with contextlib.suppress(OSError):
            for _ in range(4):
                if not (data := os.read(self._output_fd, 1 << 16)):
                    self._unwatch(self._output_fd)  # it would stay ready for ever
                    break
                self._keep_output(data)

    def _keep_output(self, data: bytes) -> None:
        self._output.add(data)

    def _end_output(self) -> str:
        """What is read from now on is of another attempt. Returns where more is than what was kept."""
        return ""

    def describe_exit(self) -> str:
        """How the process ended. Assumes: it is dead."""
        return describe_exit(self._process.wait())

    def begin_to_kill(self) -> None:
        """Send the signal. `kill` waits until it has taken effect, which takes the kernel a moment."""
        if self._is_killed:
            return
        self._is_killed = True
        for fd in self._watched:
            self._selector.unregister(fd)
        self._watched.clear()
        self._send_kill()

    def _send_kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def kill(self) -> None:
        """Kill the process group and close everything. May be called twice."""
        if self._pipe.fileno() < 0:
            return
        self.begin_to_kill()
        self._process.wait()
        self.hear()  # the process may have spoken before it died
        self.read_output()
        self._pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._let_go()

    def _let_go(self) -> None:
        """Close what its group may still use: the kernel kills the rest of it. May be called twice."""
        if self._lifeline >= 0:
            os.close(self._output_fd)
            os.close(self._lifeline)
        self._output_fd = self._lifeline = -1  # the numbers may belong to other files from now on

    def _receive(self, header: list[Any], body: bytes) -> None:
        """Take one frame. Raises ValueError or TypeError when it is not a frame of ours."""
        raise NotImplementedError

    def _write(self) -> None:
        try:
            while self._outbox:
                sent = self._pipe.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._outbox.clear()
            self._break()

    def _read_and_write(self) -> None:
        self._read()
        self._write()
        if not self._outbox:
            self._selector.modify(self._pipe.fileno(), selectors.EVENT_READ, self._read)

    def _read(self) -> bool:
        """Read what has been sent. Returns whether there may be more."""
        try:
            data = self._pipe.recv(_READ_BYTES)
            if not data:
                self._break()
                return False
            for header, body in self._frames.feed(data):
                self._receive(header, body)
            self._stir()
        except BlockingIOError:
            return False
        except (OSError, ValueError, TypeError):  # the process is gone, or user code wrote into the pipe
            self._break()
            return False
        return True

    def _died(self) -> None:
        self._break()
