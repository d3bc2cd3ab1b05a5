"""Decides which jobs are best: one rule for evaluators and for all views.

The greatest number is best, or the least. NaN and infinities are never best. Of equal jobs the one with the
lower id comes first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, TypeVar

_Job = TypeVar("_Job")


def number_of(value: Any) -> int | float | None:
    """`value` as a number by which jobs are ranked, also one of numpy's; None for anything else."""
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def best_ranked(
    jobs: Iterable[tuple[int | float, int, _Job]], n: int, *, minimize: bool
) -> Iterator[_Job]:
    """The `n` best of the jobs, given as (number, id, job), the best one first. It holds no more at once."""
    sign = 1 if minimize else -1
    finite = (
        (sign * number, job_id, job)
        for number, job_id, job in jobs
        if isinstance(number, int) or math.isfinite(number)  # an integer of any size is finite
    )
    return (job for _, _, job in heapq.nsmallest(n, finite, key=lambda item: item[:2]))
