"""One process that runs user code, with the attempts that it was given and has reported."""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Container, Mapping
from typing import Any

from queue_eval.marks import STARTED_BY
from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Printed
from queue_eval.runtime.leftovers import CAN_BE_FOUND
from queue_eval.runtime.pipe import (
    OUTPUT_BYTES,
    RUNNING,
    TELL_LEFT,
    TELL_UP,
    Kind,
    Report,
    Setup,
    encode_recall,
    encode_run,
    parse_ready,
    parse_report,
    parse_source_parts,
)
from workers.executors.piped_process import PipedProcess
from workers.executors.signs import Sign, parse_printed, parse_sign
from workers.executors.whole_output import WholeOutput, output_folder

# -P: neither the working directory nor a script's folder may shadow queue_eval. -m takes longer to start, and
# so do imports with garbage collections: the child enables these before it loads user code.
_PROGRAM = ("-P", "-c", "import gc; gc.disable(); from queue_eval.runtime.child import main; main()")

_RETRY_LOAD_AFTER_S = 0.5
"""A function that a process could not load is not tried again for so long, so that all jobs of a function
that no process can load fail at once. This is shorter than the time for which a worker steps aside."""


class ChildProcess(PipedProcess):
    """A child and the attempts that it was given, in the order in which it begins them.

    The first `threads` of `given` are running, the rest wait in the child. `kill` kills the process itself.
    `workers.executors.departures` ends what it leaves behind, and then calls `release`.
    """

    flags = (TELL_UP, TELL_LEFT)

    def __init__(
        self, python: str, setup: Setup, selector: selectors.BaseSelector,
        stirred: Callable[[ChildProcess], object], env: Mapping[str, str], most: int | None = None,
        signs: list[Sign] | None = None,
    ) -> None:  # fmt: skip
        """`stirred` is called when the child has spoken or is broken. `flush` sends what was added for it.
        `most`: how many attempts it may be given; None: no limit. What its attempts tell of themselves is
        added to `signs`."""
        self._signs = signs if signs is not None else []
        self.mark = env[STARTED_BY]
        self.width = 1
        """How many slots it takes: as many as the last attempt that it was given."""
        self.has_leftovers = setup.threads > 1
        """Whether user code may have left processes. A child with several threads cannot know it."""
        self.is_tidying = False
        """Whether it is ending such processes, before it begins its next attempt."""
        self.attempts_allowed = math.inf if most is None else most
        """How many attempts it may still be given; with none left it is replaced when it is idle."""
        self.threads = setup.threads
        self.given: dict[Token, Attempt] = {}
        self.begun_at: dict[Token, float] = {}
        self._queued: dict[Token, None] = {}
        self._stirred = stirred
        self.abandoned = 0
        self.idle_since = time.monotonic()
        """Since when it has had nothing to do, while it has nothing to do (monotonic, s)."""
        self.is_up = False
        """Whether its interpreter works, and has come to load the run function."""
        self.ready = False
        self.load_error = ""
        """Why it could not load its run function: then every attempt given to it ends with that error."""
        self.ready_at = 0.0
        self.source_parts: dict[str, Any] = {}
        """What the source of its run function is made of."""
        self._has_new_load = False
        self.reports: list[Report] = []
        self._printed: list[Printed] = []
        self._folder = None if self.threads > 1 else output_folder(setup.inside)
        self._whole: WholeOutput | None = None
        self._lacks_whole = False
        """The output of the running attempt cannot be written to a file."""
        super().__init__([python, *_PROGRAM], selector, env)
        self.add(setup.encode())

    @property
    def free(self) -> int:
        """How many threads have nothing to do, and may be given an attempt."""
        if self.is_retiring or self.is_tidying:
            return 0
        return max(0, self.threads - self.abandoned - len(self.given))

    @property
    def is_retiring(self) -> bool:
        return self.attempts_allowed <= 0

    def give(self, attempt: Attempt) -> None:
        """Add an attempt to what is sent by the next `flush`."""
        self.given[attempt.token] = attempt
        self.width = attempt.slots
        self.attempts_allowed -= 1
        if len(self.begun_at) < self.threads:
            self.begun_at[attempt.token] = time.monotonic()
        else:
            self._queued[attempt.token] = None
        self.add(encode_run(*attempt.token, attempt.config, attempt.slots))

    def recall(self, wanted: Container[Token] | None = None) -> list[Token]:
        """Take back attempts that have not begun, all or those `wanted`.

        One may begin nevertheless, when the attempt before it ends at this very moment. Its report is then
        ignored.
        """
        recalled = [token for token in self._queued if wanted is None or token in wanted]
        for token in recalled:
            del self.given[token], self._queued[token]
        if recalled:
            self.add(encode_recall(recalled))
            self.flush()
        return recalled

    def end_input(self) -> None:
        """Tell the child to end as Python ends."""
        with contextlib.suppress(OSError):  # the child is gone
            self._pipe.shutdown(socket.SHUT_WR)

    def has_exited(self) -> bool:
        """Whether the process has exited, and not only closed its end of the pipe. If it has only closed its
        end, we listen to it no more."""
        if self.broken:
            self._unwatch(self._pipe.fileno())
        return self._process.poll() is not None

    def wait_for_exit(self, timeout_s: float) -> bool:
        """Whether the process exits by itself within this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
            return True
        return False

    def has_ended_well(self) -> bool:
        """Whether it has ended as Python ends, and has left nothing running. Assumes: it is dead."""
        return self._process.returncode == 0 and not self.has_leftovers

    def release(self) -> None:
        """Close what is left, once nothing runs any more that it has started. May be called twice."""
        self._end_output()
        super()._let_go()

    def _send_kill(self) -> None:
        if CAN_BE_FOUND:
            self._process.kill()
        else:
            super()._send_kill()

    def _let_go(self) -> None:
        """Close nothing yet: programs may still print, and its group may hold resource trackers."""

    def take_load(self) -> bool:
        """Whether it has loaded the run function; True once."""
        has_new_load, self._has_new_load = self._has_new_load, False
        return has_new_load

    def is_worn_out(self, now: float) -> bool:
        """Whether it failed to load the run function a while ago: another process may succeed."""
        return self.load_error != "" and now - self.ready_at > _RETRY_LOAD_AFTER_S

    def take(self, token: Token) -> Attempt | None:
        """Strike an attempt off, whereupon the next one in the child begins."""
        attempt = self.given.pop(token, None)
        if self.begun_at.pop(token, None) is None:
            self._queued.pop(token, None)
        elif self._queued:
            first = next(iter(self._queued))
            del self._queued[first]
            self.begun_at[first] = time.monotonic()
        if not self.given:
            self.idle_since = time.monotonic()
        return attempt

    def printed(self, begun_before: float) -> list[Printed]:
        """What its running attempts have printed since the last call, of those that began before (monotonic,
        s)."""
        if self.threads > 1:  # it tells so itself, since it keeps the threads apart
            printed, self._printed = self._printed, []
            return printed
        # A child with one thread runs one attempt at a time.
        for token, begun_at in self.begun_at.items():
            if begun_at < begun_before and not self.is_tidying and (news := self.take_printed()) is not None:
                return [Printed(*token, "", *news)]
        return []

    def _keep_output(self, data: bytes) -> None:
        super()._keep_output(data)
        if self._whole is not None:
            self._whole.write(data)
        elif self._output.count > OUTPUT_BYTES and self._folder is not None and not self._lacks_whole:
            self._lacks_whole = True
            # Nothing of it has been left out yet.
            with contextlib.suppress(StopIteration, OSError):
                token = next(iter(self.begun_at))
                self._whole = WholeOutput(self._folder, token, self._output.whole())

    def _end_output(self) -> str:
        whole, self._whole, self._lacks_whole = self._whole, None, False
        if whole is None:
            return ""
        whole.close()
        return whole.note()

    def forget_begun(self) -> dict[Token, float]:
        """Strike off the running attempts, with none in their place. Returns when each began."""
        begun, self.begun_at = self.begun_at, {}
        for token in begun:
            del self.given[token]
        return begun

    def abandon(self, token: Token) -> None:
        """Give up on a running thread: it cannot be killed, and its thread is not free again."""
        if self.take(token) is not None:
            self.abandoned += 1

    def _stir(self) -> None:
        self._stirred(self)

    def _receive(self, header: list[Any], body: bytes) -> None:
        if header[0] == Kind.UP:
            self.is_up = True
        elif header[0] == Kind.READY:
            self.source_parts = parse_source_parts(header)
            self._become_ready(parse_ready(header))
        elif header[0] == Kind.LEFT:
            self.has_leftovers = self.is_tidying = True
        elif header[0] == Kind.TIDY:
            self.is_tidying = False
            # Attempts that it was given meanwhile begin only now.
            self.begun_at = dict.fromkeys(self.begun_at, time.monotonic())
        elif header[0] == Kind.REPORT:
            self.reports.append(parse_report(header, body))
        elif header[0] in RUNNING:
            self._signs.append(parse_sign(header, body))
        elif header[0] == Kind.PRINTED and self.threads > 1:
            self._printed.append(parse_printed(header, body))
        else:
            raise ValueError(f"not a frame of a child: {header[0]!r}")

    def _become_ready(self, load_error: str) -> None:
        # Loading the run function does not count as running.
        self.ready = True
        self.load_error = load_error
        self._has_new_load = not load_error
        self.ready_at = now = time.monotonic()
        self.begun_at = dict.fromkeys(self.begun_at, now)
