"""Pauses between tries that grow from one to the next, up to a limit."""

from __future__ import annotations

import random


class Backoff:
    """The pauses before each next try of something that fails: exponential backoff with jitter.

    The first pause is `first_s`, and each one `factor` times that before it, until they are `most_s`. Jitter
    takes a random part away from each, at most the share `jitter` of it: so a fleet that was cut off in one
    instant does not come back in one instant.

    Assumes: one thread uses it at a time.
    """

    def __init__(self, first_s: float, most_s: float, *, factor: float = 2.0, jitter: float = 0.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._factor = factor
        self._jitter = jitter
        self._next_s = first_s

    def next_s(self) -> float:
        """How long to pause now (s)."""
        pause_s = self._next_s
        self._next_s = min(self._factor * pause_s, self._most_s)
        return pause_s * random.uniform(1 - self._jitter, 1.0) if self._jitter else pause_s

    def reset(self) -> None:
        """It has worked: begin with the first pause again."""
        self._next_s = self._first_s
