"""Exponential backoff: pauses between tries that grow up to a limit."""

from __future__ import annotations

import random


class Backoff:
    """The pauses between tries of something that fails: exponential backoff with jitter.

    The first pause is `first_s`. Each further pause is `factor` times the one before, and at most `max_s`. A
    random part of each pause is left out, at most the share `jitter`. So workers that were cut off in one
    instant do not come back in one instant.

    Assumes: one thread uses it at a time.
    """

    def __init__(self, first_s: float, max_s: float, *, factor: float = 2.0, jitter: float = 0.0) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._factor = factor
        self._jitter = jitter
        self._next_s = first_s

    def next_s(self) -> float:
        """How long to pause now (s)."""
        pause_s = self._next_s
        self._next_s = min(self._factor * pause_s, self._max_s)
        return pause_s * random.uniform(1 - self._jitter, 1.0) if self._jitter else pause_s

    def reset(self) -> None:
        """Begin with the first pause again, after a try that has worked."""
        self._next_s = self._first_s
