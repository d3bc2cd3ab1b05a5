"""Bounds the child processes of a worker over all its campaigns: idle ones end for new ones.

::

    a lane wants a child ──▶ room? ──▶ start it
                              │ no: end the child that has been idle longest, in any lane
                              └ none is idle: start it if only the number is exceeded; wait for open files

Children stay warm for a while after the last job of their campaign. Campaigns that come one after the other
would each leave their children, until processes and open files run out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from typing import Protocol

from queue_eval.foreign_text import plain
from workers.executors.departures import Departures

log = plain(logging.getLogger(__name__))

_MIN_WARM = 8
"""So many idle children may stay beside the busy ones, or one per slot if that is more."""

_MIN_FREE_FILES = 24
"""So many open files must be free before a child is started. A child takes nine at its start and four
afterwards; the worker's connections and spool need some at any time."""

_END_S = 1.0
"""How long an idle child may take to end when another one needs its files."""


class ChildHolder(Protocol):
    """Starts children: the executor of one campaign."""

    @property
    def children(self) -> int:
        """How many children it has."""

    @property
    def idle_since(self) -> float | None:
        """Since when (monotonic, s) its longest idle child has had nothing to do; None when all are busy."""

    def let_go(self) -> bool:
        """End the child that has been idle longest; False when there is none."""

    def waiting(self) -> int:
        """How many attempts have not begun."""

    @property
    def busy_slots(self) -> int:
        """How many slots its attempts take that have begun."""


class ChildLimit:
    """Guarantees: idle children end before a new one would exceed the bound or the limit on open files.
    Assumes: all calls come from the runner's thread."""

    def __init__(self, departures: Departures | None = None) -> None:
        self.departures = departures or Departures()
        """The children of all holders that end."""
        self._holders: list[ChildHolder] = []
        self._has_warned = False

    def join(self, holder: ChildHolder) -> None:
        """The children of `holder` count from now on. May be called twice."""
        if holder not in self._holders:
            self._holders.append(holder)

    def leave(self, holder: ChildHolder) -> None:
        """`holder` has no children any more. May be called twice."""
        if holder in self._holders:
            self._holders.remove(holder)

    def slots_elsewhere(self, holder: ChildHolder) -> int:
        """How many slots all holders except this one use at the moment."""
        return sum(each.busy_slots for each in self._holders if each is not holder)

    def make_room(self, holder: ChildHolder, slots: int, *, is_wanted_now: bool = True) -> bool:
        """Whether `holder` may start a child, in a worker with `slots` slots. Idle children end for it.

        A child that is only to be ready in time (not `is_wanted_now`) never takes the place of another such.
        """
        max_children = slots + max(slots, _MIN_WARM)
        while self._count() >= max_children:
            if not self._end_oldest(spare_waiting=not is_wanted_now):
                if not is_wanted_now:
                    return False
                break  # all are busy: there are no more than the slots allow
        while self._count() and _is_short_of_files():
            if self._end_oldest(spare_waiting=not is_wanted_now):
                self.departures.settle(_END_S)
            else:
                if is_wanted_now:
                    self._warn()
                # The first child of a campaign may have the last files: no other child would run its jobs.
                return is_wanted_now and not holder.children
        return True

    def end_oldest(self) -> bool:
        """End the child that has been idle longest, and wait for that. False when all are busy."""
        has_ended = self._end_oldest(spare_waiting=False)
        self.departures.settle(_END_S)
        return has_ended

    def _count(self) -> int:
        return sum(holder.children for holder in self._holders)

    def _end_oldest(self, *, spare_waiting: bool) -> bool:
        """With `spare_waiting`, the children of holders stay that have attempts waiting for them."""
        idle = [
            (since, number)
            for number, holder in enumerate(self._holders)
            if (since := holder.idle_since) is not None and not (spare_waiting and holder.waiting())
        ]
        return bool(idle) and self._holders[min(idle)[1]].let_go()

    def _warn(self) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        log.warning(
            "the limit of %d open files leaves room for %d processes, fewer than there are jobs for: the "
            "other jobs wait; raise it with 'ulimit -n', or give this worker fewer slots",
            limit, self._count(),
        )  # fmt: skip


def _is_short_of_files() -> bool:
    """Whether another child would leave too few open files for the rest; False where that is not known."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            return limit - sum(1 for _ in found) < _MIN_FREE_FILES
    return False
