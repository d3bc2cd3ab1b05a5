"""The limits on time and memory of the attempts in one pool: which children have exceeded them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from queue_eval.model.attempt import Token
from workers.executors.child_process import ChildProcess
from workers.executors.child_set import ChildSet
from workers.executors.gauge import Gauge


class TimeLimit:
    """Time that an attempt may take. `loading_s`: how much more while the run function loads."""

    def __init__(self, limit_s: float | None, loading_s: float) -> None:
        self._limit_s = limit_s
        self._loading_s = loading_s
        self._look_at = 0.0
        """No attempt reaches its limit before."""

    def is_due(self, now: float) -> bool:
        """Whether an attempt may have reached its limit."""
        return now >= self._look_at

    def note_looked(self, children: ChildSet, now: float) -> None:
        """All late attempts have been dealt with: compute when the next one can be late."""
        self._look_at = math.inf
        if self._limit_s is not None:
            deadlines = (began_at + self._of(child) for child, began_at in children.begun_at())
            self._look_at = min([now + self._limit_s, *deadlines])  # or of one that begins from now on

    def late(self, child: ChildProcess, now: float) -> list[tuple[Token, float]]:
        """The attempts of this child that have reached their limit, and when they began."""
        limit_s = self._of(child)
        return [(token, began_at) for token, began_at in child.begun_at.items() if now >= began_at + limit_s]

    def next_look(self, children: ChildSet) -> list[float]:
        """When to look again (monotonic, s), if any attempt is given."""
        has_limit = self._limit_s is not None and any(child.given for child in children)
        return [self._look_at] if has_limit else []

    def _of(self, child: ChildProcess) -> float:
        if self._limit_s is None:
            return math.inf
        return self._limit_s + (0.0 if child.ready else self._loading_s)


@dataclass(frozen=True, slots=True)
class Excess:
    """A child that uses more memory than its attempts may."""

    child: ChildProcess
    limit: int
    used: int
    """Bytes."""


class MemoryLimit:
    """Memory that one slot may use (bytes); None: no limit."""

    def __init__(self, limit: int | None, threads: int) -> None:
        self._gauge = Gauge(limit * threads) if limit is not None else None

    def measure(self, children: Iterable[ChildProcess]) -> tuple[list[Excess], list[ChildProcess]]:
        """The children that exceed their limit, and those that have come near it. Both are empty while it is
        not time to measure again."""
        gauge, children = self._gauge, list(children)
        excesses: list[Excess] = []
        near: list[ChildProcess] = []
        if gauge is None or not children or not gauge.is_due():
            return excesses, near
        used = gauge.measure([child.pid for child in children])
        for child in children:
            bytes_used = used.get(child.pid, 0)
            width = max((attempt.slots for attempt in child.given.values()), default=1)
            limit = gauge.limit * (width if child.threads == 1 else 1)
            if bytes_used > limit:
                excesses.append(Excess(child, limit, bytes_used))
            elif bytes_used > limit / 2:
                near.append(child)
        return excesses, near
