"""Gives the attempts of one pool to its children: which child begins which attempt, and when to start one.

::

    waiting ──▶ a free child ──none──▶ a new child ──no slot, or too many──▶ go on waiting
       └──▶ queue in a child that is busy, while all jobs are very short
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Attempt, Token
from workers.executors.child_endings import ChildEndings
from workers.executors.child_limit import ChildHolder, ChildLimit
from workers.executors.child_process import ChildProcess
from workers.executors.child_set import ChildSet
from workers.executors.child_starter import ChildStarter
from workers.executors.piped_process import is_lasting
from workers.executors.protocol import Plan
from workers.pace import Pace

log = plain(logging.getLogger(__name__))

_QUEUE_IF_SHORTER_MS = 5.0
"""Jobs that are all shorter than this may queue in a child, so that its pipe never runs dry."""

_QUEUED_WORK_MS = 5.0
"""About so much work may queue in a child."""

_MAX_QUEUED = 32
"""How many jobs may queue in a child."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The differences between the methods."""

    children: int
    threads: int
    one_attempt_each: bool
    by_slot: bool = True
    """Whether each child has slots of its own. Otherwise one child has all of them."""


class Dispatcher:
    """Guarantees: attempts begin in the order in which they came, and take no more slots than there are.

    `replace` is called with a child that must be replaced. `end_unstarted` is called with the attempts for
    which no process can be started, and with the reason.
    """

    def __init__(
        self, plan: Plan, shape: Shape, holder: ChildHolder, limit: ChildLimit, children: ChildSet,
        starter: ChildStarter, endings: ChildEndings, *, replace: Callable[[ChildProcess], object],
        end_unstarted: Callable[[Sequence[Token], OSError], object],
    ) -> None:  # fmt: skip
        self._plan = plan
        self._shape = shape
        self._board = plan.board if shape.by_slot else None
        self._holder = holder
        self._limit = limit
        self._children = children
        self._starter = starter
        self._endings = endings
        self._replace = replace
        self._end_unstarted = end_unstarted
        self.waiting: deque[tuple[float, Attempt]] = deque()
        """Attempts that no child has, and when they were submitted (monotonic, s)."""
        self.pace = Pace()
        self.is_noisy = False
        """Whether an attempt has printed something."""
        self._may_retire = plan.jobs_per_child is not None or plan.memory_limit is not None
        self._may_be_wide = False
        """Some attempt here takes several slots, or did a moment ago."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        now = time.monotonic()
        self.waiting.extend((now, attempt) for attempt in attempts)
        self._may_be_wide = self._may_be_wide or any(attempt.slots > 1 for attempt in attempts)
        self.dispatch()

    def put_back(self, attempts: Sequence[Attempt]) -> None:
        """These had been given to a child that ends: they are the first to be given again."""
        now = time.monotonic()
        self.waiting.extendleft((now, attempt) for attempt in reversed(attempts))

    def take_back(self, submitted_before: float) -> list[Token]:
        """Forget waiting attempts that were submitted before; returns which."""
        back = [attempt.token for submitted_at, attempt in self.waiting if submitted_at < submitted_before]
        self.waiting = deque(item for item in self.waiting if item[0] >= submitted_before)
        return back

    def forget(self, unwanted: Container[Token]) -> list[Token]:
        """Forget these attempts if they wait; returns which."""
        dropped = [attempt.token for _, attempt in self.waiting if attempt.token in unwanted]
        self.waiting = deque(item for item in self.waiting if item[1].token not in unwanted)
        return dropped

    def dispatch(self) -> None:
        """Give waiting attempts to children, and start children for them."""
        self._may_be_wide = self._may_be_wide and self._has_wide()
        while self.waiting:
            # Keep the order: an attempt that takes several slots is not overtaken here either.
            child = self._child_for(self.waiting[0][1])
            if child is None:
                break
            self._give(child)
            if child.is_retiring:
                self._prepare_successor()
        if self.waiting and (extra := self.queue_depth()):
            self._fill(extra)
        self._start_spares()
        self._children.flush()

    # ----------------------------------------------------------------------------------------------------

    def _fill(self, extra: int) -> None:
        """Let attempts queue in the children."""
        for child in list(self._children.roomy):
            depth = 0 if child.abandoned else child.threads + extra
            while len(child.given) < depth and not child.is_retiring:
                if not self.waiting:
                    return
                self._give(child)
            del self._children.roomy[child]

    def _give(self, child: ChildProcess) -> None:
        child.give(self.waiting.popleft()[1])
        self._children.note_unsent(child)

    def _has_wide(self) -> bool:
        held = [attempt for child in self._children for attempt in child.given.values()]
        return any(attempt.slots > 1 for attempt in held) or any(a.slots > 1 for _, a in self.waiting)

    def _child_for(self, attempt: Attempt) -> ChildProcess | None:
        """A child that can begin it now, a new one if need be."""
        width = min(attempt.slots, self._plan.slots)
        beside = self._slots_beside()
        is_crowded = (
            self._may_be_wide
            or bool(self._endings.departing)
            or beside > 0
            or self._shape.one_attempt_each  # there are spares
            or (self._may_retire and any(child.is_retiring for child in self._children))
        )
        if is_crowded and self._slots_in_use() + beside + width > self._plan.slots:
            return None
        now = time.monotonic()
        for child in list(self._children.free):
            if not child.free:
                del self._children.free[child]
                continue
            if child.is_worn_out(now) and not child.given:
                self._replace(child)
                continue
            fits = self._board is None or len(self._children.slots_of(child)) == width
            # A child that died unnoticed must not cost an attempt that never reached it.
            if fits and not child.is_dead():
                return child
        return self._start_child(width)

    def _slots_in_use(self) -> int:
        """Slots that are taken."""
        given = sum(attempt.slots for child in self._children for attempt in child.given.values())
        given += self._endings.slots_taken
        return given + sum(child.abandoned for child in self._children)

    def _slots_beside(self) -> int:
        """Slots that other campaigns take, while processes that one of their attempts has started are ending.

        The slot of such an attempt is not free yet, which `WorkerState` does not know when it leases jobs.
        """
        ending = 0 if self._board is not None else self._endings.slots_taken_elsewhere()
        return ending + self._limit.slots_elsewhere(self._holder) if ending else 0

    def queue_depth(self) -> int:
        """How many attempts may queue in each child behind those that run."""
        # Output is attributed by the order of reports, which queueing in the child would blur.
        if self.is_noisy or self._shape.one_attempt_each or self._may_be_wide:
            return 0
        depth = self.pace.fitting(_QUEUED_WORK_MS, longest_ms=_QUEUE_IF_SHORTER_MS, most=_MAX_QUEUED)
        return depth * self._shape.threads

    def _start_child(self, width: int) -> ChildProcess | None:
        if self._is_full():
            return None
        try:
            return self._launch(width)
        except OSError as error:
            if not is_lasting(error):  # no memory, process or file is left: no job is charged for that
                log.warning("cannot start a process for now: %s", error)
                return None
            # No process can be started for any of the waiting attempts.
            waiting = [attempt.token for _, attempt in self.waiting]
            self.waiting.clear()
            self._end_unstarted(waiting, error)
            return None

    def _is_full(self) -> bool:
        if self._board is not None:
            return False
        serving = len(self._children)
        if not self._shape.one_attempt_each:
            serving += self._endings.departing
        if self._may_retire:
            serving = sum(not child.is_retiring for child in self._children)
        return serving >= self._shape.children

    def _prepare_successor(self) -> None:
        """Start the next process while the last attempts of another one run, so that it loads in time."""
        # Where slots own something, they are not free before the other process is gone.
        if self._board is None and not self._shape.one_attempt_each and not self._is_full():
            with contextlib.suppress(OSError):  # the next attempt reports the error
                if (child := self._launch(1, is_wanted_now=False)) is not None:
                    self._children.note_unsent(child)

    def _start_spares(self) -> None:
        """Start an interpreter for each attempt that waits, up to one for each slot, while others run.

        It gets no setup before it is given its attempt, and so runs no user code before.
        """
        if self._board is not None or not self._shape.one_attempt_each:
            return
        wanted = min(self._plan.slots, len(self.waiting))
        with contextlib.suppress(OSError):  # the next attempt reports the error
            while wanted and sum(not child.given for child in self._children) < wanted:
                if self._launch(1, is_wanted_now=False) is None:
                    break

    def _launch(self, width: int, *, is_wanted_now: bool = True) -> ChildProcess | None:
        """A new child; None when others are busy with the slots, or with the files that it needs."""
        started = self._starter.start(
            self._holder, width, self._children.note_stirred, is_wanted_now=is_wanted_now
        )
        if started is None:
            return None
        child, slots = started
        self._children.add(child, slots)
        return child
