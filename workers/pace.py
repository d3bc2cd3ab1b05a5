"""How long the jobs of a campaign take: this tells whether other jobs may wait behind them."""

from __future__ import annotations

MIN_SAMPLES = 20
"""No job waits behind others before so many durations are known."""


class Pace:
    """A running mean, and a maximum that fades slowly, of durations (ms)."""

    def __init__(self) -> None:
        self._mean_ms = 0.0
        self._longest_ms = 0.0
        self._seen = 0

    def add(self, duration_ms: float) -> None:
        self._seen += 1
        weight = max(0.05, 1 / self._seen)
        self._mean_ms += weight * (duration_ms - self._mean_ms)
        self._longest_ms = max(duration_ms, 0.98 * self._longest_ms)

    def fitting(self, work_ms: float, *, longest_ms: float, most: int) -> int:
        """How many jobs make up `work_ms`, from 1 to `most`; 0 unless all recent jobs are known to be shorter
        than `longest_ms`."""
        if self._seen < MIN_SAMPLES or self._longest_ms > longest_ms:
            return 0
        return max(1, min(most, int(work_ms / max(self._mean_ms, 0.05))))
