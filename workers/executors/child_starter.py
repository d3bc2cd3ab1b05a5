"""Starts the children of one pool, each with the slots, cores and environment that it is to have."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Mapping

from queue_eval.marks import INSIDE_JOB, STARTED_BY
from workers.executors.child_limit import ChildHolder, ChildLimit
from workers.executors.child_process import ChildProcess
from workers.executors.piped_process import is_scarcity
from workers.executors.protocol import Plan
from workers.executors.signs import Sign
from workers.resources import Means, joined, on_cores, set_thread_limits
from workers.slot_board import SlotBoard


class ChildStarter:
    """`board`: given where each child owns slots of its own; `threads`: how many attempts a child runs;
    `signs`: where children add what their attempts tell of themselves."""

    def __init__(
        self, plan: Plan, board: SlotBoard | None, threads: int, selector: selectors.BaseSelector,
        limit: ChildLimit, signs: list[Sign],
    ) -> None:  # fmt: skip
        self._signs = signs
        self._plan = plan
        self._board = board
        self._threads = threads
        self._selector = selector
        self._limit = limit
        self._bare_environment = {**os.environ, INSIDE_JOB: plan.campaign}
        self._environment = dict(self._bare_environment)
        """The environment of processes whose slots own no cores; made once."""
        if plan.library_threads is not None:
            set_thread_limits(self._environment, plan.library_threads)

    def start(
        self, holder: ChildHolder, width: int, stirred: Callable[[ChildProcess], object], *,
        is_wanted_now: bool,
    ) -> tuple[ChildProcess, tuple[int, ...]] | None:  # fmt: skip
        """A new child of `width` slots, and these slots.

        None when others are busy with the slots, or with the files that it needs. Raises OSError.
        """
        slots, means = self._take_slots(holder, width)
        if slots is None:
            return None
        self._limit.join(holder)
        if not self._limit.make_room(holder, self._plan.slots, is_wanted_now=is_wanted_now):
            self._give_back(slots)
            return None
        env: Mapping[str, str] = self._environment
        if means is not None:
            base = self._bare_environment if means.cores else env
            env = means.environment(base, threads=self._threads)
        try:
            # It inherits the cores, as does all that it starts: there is no moment when it runs elsewhere.
            with on_cores(means.cores if means is not None else ()):
                return self._fork(env, stirred, may_end_others=is_wanted_now), slots
        except OSError:
            self._give_back(slots)
            raise

    def _fork(
        self, env: Mapping[str, str], stirred: Callable[[ChildProcess], object], *, may_end_others: bool
    ) -> ChildProcess:
        """Start a child. When processes or files are scarce, idle children end for it. Raises OSError."""
        while True:
            try:
                return ChildProcess(
                    self._plan.python, self._plan.setup, self._selector, stirred,
                    {**env, STARTED_BY: self._limit.departures.next_mark()}, self._plan.jobs_per_child,
                    self._signs,
                )  # fmt: skip
            except OSError as error:
                if not (may_end_others and is_scarcity(error) and self._limit.end_oldest()):
                    raise

    def _take_slots(self, holder: ChildHolder, width: int) -> tuple[tuple[int, ...] | None, Means | None]:
        """Slots for a new child, and what it may use. The slots are None when others are busy with them."""
        if self._board is None:
            # One child for all slots has what they all own.
            board = self._plan.board
            return (), None if board is None else joined(board.means)
        self._board.join(holder)
        slots = self._board.take(width)
        return slots, None if slots is None else self._board.owned(slots)

    def _give_back(self, slots: tuple[int, ...]) -> None:
        if self._board is not None:
            self._board.give_back(slots)
