"""Picks the best of finished jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from queue_eval.driver.options import count
from queue_eval.errors import UsageError
from queue_eval.model.job import Job
from queue_eval.model.states import State
from queue_eval.views.ranking import best_ranked, number_of


def best_of(jobs: Iterable[Job], n: int, direction: str, key: Callable[[Job], Any] | None) -> list[Job]:
    """The `n` best jobs that have succeeded, the best one first; of equal ones the lower id.

    `key`: gives a job's number; None for its result, which is the objective in tables, too. A NaN or an
    infinity is never best.

    Raises UsageError for a bad argument, and for a value that is no number.
    """
    wanted = count("n", n, 0)
    if direction not in ("max", "min"):
        raise UsageError(f'direction is {direction!r}; give "max" or "min"')
    if key is not None and not callable(key):
        raise UsageError(f"key is of type {type(key).__name__}; give a function from a job to a number")
    succeeded = (job for job in jobs if job.state is State.SUCCEEDED)
    numbered = ((_number(job, key), job.id, job) for job in succeeded)
    return list(best_ranked(numbered, wanted, minimize=direction == "min"))


def _number(job: Job, key: Callable[[Job], Any] | None) -> int | float:
    value = job.result if key is None else key(job)
    number = number_of(value)
    if number is not None:
        return number
    if key is None:
        raise UsageError(
            f"the result of job {job.id} is a {type(value).__name__}, no number; give best a key, such as "
            'key=lambda job: job.result["loss"]'
        )
    raise UsageError(f"key gave a {type(value).__name__} for job {job.id}; let it return a number")
