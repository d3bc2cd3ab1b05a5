"""One process that runs user code, seen from the worker: its pipe, its output, its death."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Container

from queue_eval.pipe import (
    OUTPUT_BYTES,
    READY,
    FrameBuffer,
    Kept,
    Report,
    Setup,
    encode_recall,
    encode_run,
    parse_report,
)
from workers.executors.protocol import Attempt, Token

_READ_BYTES = 1 << 16
"""Larger buffers are mapped and unmapped for every read."""


class ChildProcess:
    """A child and what it was given, in the order in which it begins them.

    Guarantees: once `kill` returns, the process and all it forked into its group are dead. The first
    `threads` of `given` are running, the rest wait in the child.
    """

    def __init__(self, python: str, setup: Setup, selector: selectors.BaseSelector) -> None:
        self.threads = setup.threads
        self.given: OrderedDict[Token, Attempt] = OrderedDict()
        self.begun_at: dict[Token, float] = {}
        self.abandoned = 0
        self.ready = False
        self.broken = False
        self.reports: list[Report] = []
        self._frames = FrameBuffer()
        self._outbox = bytearray()
        self._output = Kept(OUTPUT_BYTES)
        self._selector = selector
        self._start(python, setup)

    def _start(self, python: str, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        self._output_fd, output_write = os.pipe()
        try:
            # -P: neither the working directory nor a script's folder may shadow queue_eval.
            self._process = subprocess.Popen(
                [python, "-P", "-m", "queue_eval.child", str(theirs.fileno()), str(lifeline_read)],
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(theirs.fileno(), lifeline_read),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(self._lifeline)
            os.close(self._output_fd)
            raise
        finally:
            theirs.close()
            os.close(lifeline_read)
            os.close(output_write)
        self._pipe = ours
        self._pipe.setblocking(False)
        os.set_blocking(self._output_fd, False)
        self._watched: list[int] = []
        self._watch(self._pipe.fileno(), self._read)
        self._watch(self._output_fd, self.read_output)
        # The pipe's end does not tell of the child's death when user code has forked: watch the process.
        self._pidfd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None
        if self._pidfd is not None:
            self._watch(self._pidfd, self._died)
        self._outbox += setup.encode()
        self.flush()

    def _watch(self, fd: int, ready: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)
        self._watched.append(fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def free(self) -> int:
        """Threads that have nothing to do."""
        return max(0, self.threads - self.abandoned - len(self.given))

    def is_dead(self) -> bool:
        return self.broken or self._process.poll() is not None

    def give(self, attempt: Attempt) -> None:
        """Add an attempt to what is sent by the next `flush`."""
        self.given[attempt.token] = attempt
        if len(self.given) <= self.threads:
            self.begun_at[attempt.token] = time.monotonic()
        self._outbox += encode_run(*attempt.token, attempt.config)

    def flush(self) -> None:
        """Send what was given: many attempts in one system call, which wakes the child once."""
        if not self._outbox:
            return
        self._write()
        if self._outbox:
            self._selector.modify(
                self._pipe.fileno(), selectors.EVENT_READ | selectors.EVENT_WRITE, self._read_and_write
            )

    def recall(self, wanted: Container[Token] | None = None) -> list[Token]:
        """Take back, of `wanted` or all, what has not begun. It may begin nevertheless when what it waits
        behind ends at this very moment; its report is then nobody's."""
        waiting = [token for token in self.given if token not in self.begun_at]
        recalled = [token for token in waiting if wanted is None or token in wanted]
        for token in recalled:
            del self.given[token]
        if recalled:
            self._outbox += encode_recall(recalled)
            self.flush()
        return recalled

    def take(self, token: Token) -> Attempt | None:
        """Strike an attempt off; the next one in the child begins."""
        attempt = self.given.pop(token, None)
        self.begun_at.pop(token, None)
        for position, waiting in enumerate(self.given):
            if position >= self.threads:
                break
            self.begun_at.setdefault(waiting, time.monotonic())
        return attempt

    def abandon(self, token: Token) -> None:
        """Give up on a running thread: it cannot be killed, and its thread is not free again."""
        if self.take(token) is not None:
            self.abandoned += 1

    def take_output(self) -> bytes:
        self.read_output()
        return self._output.take()

    def read_output(self) -> None:
        # More than a pipe holds, but not without end: others want to be read too.
        with contextlib.suppress(OSError):
            for _ in range(4):
                if not (data := os.read(self._output_fd, 1 << 16)):
                    break
                self._output.add(data)

    def describe_death(self) -> str:
        code = self._process.wait()
        if code < 0:
            try:
                return f"killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"killed by signal {-code}"
        return f"exit status {code}"

    def kill(self) -> None:
        """Kill the process group and let go of everything. May be called twice."""
        if self._pipe.fileno() < 0:
            return
        for fd in self._watched:
            self._selector.unregister(fd)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        while self._read():  # it may have reported before it died
            pass
        self.read_output()
        self._pipe.close()
        os.close(self._lifeline)
        os.close(self._output_fd)
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _write(self) -> None:
        try:
            while self._outbox:
                sent = self._pipe.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            self._outbox.clear()

    def _read_and_write(self) -> None:
        self._read()
        self._write()
        if not self._outbox:
            self._selector.modify(self._pipe.fileno(), selectors.EVENT_READ, self._read)

    def _read(self) -> bool:
        """Take what the child has sent. Whether there may be more."""
        try:
            data = self._pipe.recv(_READ_BYTES)
            if not data:
                self.broken = True
                return False
            for header, body in self._frames.feed(data):
                if header[0] == READY:
                    self._become_ready()
                else:
                    self.reports.append(parse_report(header, body))
        except BlockingIOError:
            return False
        except (OSError, ValueError, TypeError):  # gone, or user code wrote into the pipe
            self.broken = True
            return False
        return True

    def _become_ready(self) -> None:
        # Loading the run function does not count as running.
        self.ready = True
        now = time.monotonic()
        self.begun_at = dict.fromkeys(self.begun_at, now)

    def _died(self) -> None:
        self.broken = True
