"""Children that end, and processes that they have left running, over all campaigns of a worker.

::

    idle child ──end of its pipe──▶ it ends as Python ends ──▶ nothing left ──▶ gone
                                       │ takes too long: SIGKILL  │ something is left: see `leftovers`
    child to be killed ──SIGKILL───────┴──────────────────────────┘

The slots of a child are free when all is gone: the next attempt does not begin before. The runner does not
wait for that; it looks in each of its turns.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Container
from pathlib import Path

from queue_eval.foreign_text import plain
from queue_eval.marks import STARTED_BY
from queue_eval.runtime.leftovers import Termination
from workers.executors.child_process import ChildProcess
from workers.executors.piped_process import SECRETS
from workers.guard import Guard

log = plain(logging.getLogger(__name__))

END_S = 5.0
"""How long a process may take to end as Python ends: threads, exit handlers, files."""

_KILLED = b"[the process had not ended %g s after this job, and was killed: a thread or an exit handler]\n"

_KILL_REST_AFTER_S = 1.0
"""A worker that is about to be killed gives the rest no more time than this."""

_POLL_S = 0.05
"""How often to look where no file descriptor tells of a process's death."""


class Departure:
    """One child on its way out. `on_gone` is called with it, once."""

    def __init__(self, child: ChildProcess, on_gone: Callable[[Departure], object], slots: int) -> None:
        self.child = child
        self.slots = slots
        """How many slots it still takes."""
        self._on_gone = on_gone
        self._kill_at = time.monotonic() + END_S
        self._kill_rest_at = math.inf
        self._ending: Termination | None = None
        self.last_words = b""
        """What the child has printed at its end."""

    def hurry(self, kill_rest_at: float = math.inf) -> None:
        """Kill the child now, and what it has left at `kill_rest_at` at the latest."""
        self._kill_at = 0.0
        self._kill_rest_at = kill_rest_at
        if self._ending is not None:
            self._ending.hurry(kill_rest_at)

    @property
    def next_at(self) -> float:
        if self._ending is not None:
            return self._ending.next_at
        return min(self._kill_at, time.monotonic() + _POLL_S)

    def turn(self, now: float) -> bool:
        """Do what is due. Returns whether all is gone."""
        if self._ending is None and not self._bury(now):
            return False
        if self._ending is not None:
            is_over = self._ending.turn(now)
            self.child.read_output()
            if not is_over:
                return False
            if self._ending.hung:
                hung = ", ".join(map(str, self._ending.hung))
                log.warning("processes of a job hang in the kernel and cannot be killed: %s", hung)
        self.last_words = self.child.take_output() + self.last_words
        self.child.release()
        self._on_gone(self)
        return True

    def _bury(self, now: float) -> bool:
        """Kill the child if it is time. Returns whether it is dead; then what it has left is asked to end."""
        if not self.child.has_exited():
            if now < self._kill_at:
                return False
            if self._kill_at:
                self.last_words = _KILLED % END_S
        self.child.kill()
        if not self.child.has_ended_well():
            ending = Termination(self.child.mark, self.child.pid)
            self._ending = ending if ending.begin() else None
            ending.hurry(self._kill_rest_at)
        return True


class Departures:
    """Assumes: all calls come from the runner's thread."""

    def __init__(self, *, guarded: bool = False, folder: Path | None = None) -> None:
        """`guarded`: whether a guard is to outlive this process, to end what children have started, and to
        remove `folder`."""
        # If the worker runs within a job, the mark of that job must also find all processes below.
        outer = os.environ.get(STARTED_BY)
        self._mark = (f"{outer}/" if outer else "") + secrets.token_hex(8)
        self._children = 0
        self._guard = Guard(self._mark, SECRETS, folder) if guarded else None
        self._under_way: dict[Departure, None] = {}

    def watch(self) -> None:
        """Have the guard started, if there is to be one. May be called twice."""
        if self._guard is not None:
            self._guard.start()

    def next_mark(self) -> str:
        """The mark of the next child."""
        self.watch()
        self._children += 1
        return f"{self._mark}.{self._children}"

    def end(
        self, child: ChildProcess, on_gone: Callable[[Departure], object], *, gently: bool, slots: int = 0
    ) -> Departure | None:
        """Let a child end, `gently` or not. It takes so many `slots` until all is gone. Returns None when all
        is gone already; then `on_gone` has been called."""
        departure = Departure(child, on_gone, slots)
        if gently:
            child.end_input()
        else:
            departure.hurry()
            if departure.turn(time.monotonic()):
                return None
        self._under_way[departure] = None
        return departure

    def slots_taken(self, excluded: Container[Departure] = ()) -> int:
        """How many slots the departures take, without those `excluded`."""
        return sum(departure.slots for departure in self._under_way if departure not in excluded)

    def next_at(self) -> float:
        """When `turn` has something to do (monotonic, s)."""
        return min((departure.next_at for departure in self._under_way), default=math.inf)

    def turn(self, now: float) -> None:
        """Do what is due for each departure."""
        for departure in list(self._under_way):
            if departure.turn(now):
                del self._under_way[departure]

    def settle(self, timeout_s: float, *, then_kill: bool = False) -> None:
        """Wait until all are gone, for so long at most. `then_kill`: kill the rest, and wait for that too;
        programs that they have left have a second more."""
        deadline = time.monotonic() + timeout_s
        while self._under_way:
            now = time.monotonic()
            if now >= deadline:
                if not then_kill:
                    return
                for departure in self._under_way:
                    departure.hurry(deadline + _KILL_REST_AFTER_S)
            self.turn(now)
            if self._under_way:
                time.sleep(min(max(0.0, self.next_at() - time.monotonic()), _POLL_S / 5))

    def close(self) -> None:
        """End the guard: no child is left. May be called twice."""
        if self._guard is not None:
            self._guard.close()
