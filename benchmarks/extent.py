"""How much is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Extent:
    rounds: int
    jobs: int
    """Jobs per round where it is about throughput."""
    trips: int
    """Round trips in all."""
    size: int
    """Jobs of the big campaign."""
    seconds: float
    """How long slots, gaps and peers are watched, in each round."""
    starts: int
    idle_s: float
    imports: int


FULL = Extent(
    rounds=5, jobs=10_000, trips=1000, size=200_000, seconds=2.0, starts=5, idle_s=10.0, imports=11
)
QUICK = Extent(rounds=1, jobs=3000, trips=100, size=30_000, seconds=1.0, starts=2, idle_s=3.0, imports=3)
