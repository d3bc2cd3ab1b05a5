"""The best of finished jobs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from queue_eval.driver.best import best_of
from queue_eval.errors import UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.job import Job
from queue_eval.model.states import State


def jobs_with(*results, state=State.SUCCEEDED):
    jobs = []
    for number, result in enumerate(results, 1):
        job = Job(number, {"x": number}, None)
        job.state, job.status, job.result = state, Job.DONE, result
        jobs.append(job)
    return jobs


def ids(jobs):
    return [job.id for job in jobs]


@pytest.mark.parametrize(
    ("results", "direction", "n", "wanted"),
    [
        ((1, 3, 2), "max", 1, [2]),
        ((1, 3, 2), "min", 2, [1, 3]),
        ((1, 3, 2), "max", 9, [2, 3, 1]),
        ((1, 3, 2), "max", 0, []),
        ((2, 1, 2, 2.0), "max", 3, [1, 3, 4]),
        ((2, 1, 1), "min", 2, [2, 3]),
        ((float("nan"), 1, float("inf"), float("-inf")), "max", 4, [2]),
        ((float("nan"), 1, float("inf"), float("-inf")), "min", 4, [2]),
        ((1, 10**400, -(10**400)), "max", 3, [2, 1, 3]),
        ((2**53, 2**53 + 1), "max", 1, [2]),
        ((True, False), "max", 1, [1]),
        ((), "max", 1, []),
    ],
)
def test_by_result(results, direction, n, wanted):
    assert ids(best_of(jobs_with(*results), n, direction, None)) == wanted


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.RUNNING])
def test_what_has_not_succeeded_is_never_best(state):
    others = jobs_with(1e300, FAIL_RETURN_VALUE, state=state)
    assert best_of(others, 2, "min", None) == []
    assert best_of(others, 2, "max", lambda job: job.id) == []


def test_by_key():
    jobs = jobs_with({"loss": 3}, {"loss": 1.5}, {"loss": float("nan")})
    assert ids(best_of(jobs, 3, "min", lambda job: job.result["loss"])) == [2, 1]
    assert ids(best_of(jobs, 1, "max", lambda job: np.float32(job.id))) == [3]
    assert ids(best_of(jobs, 1, "max", lambda job: np.int64(job.id))) == [3]
    assert ids(best_of(jobs, 1, "max", lambda job: Fraction(1, job.id))) == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "max", None), "n is -1"),
        ((1.5, "max", None), "n is 1.5"),
        ((1, "largest", None), 'direction is \'largest\'; give "max" or "min"'),
        ((1, "max", "loss"), "key is of type str"),
        ((1, "max", None), "the result of job 1 is a dict, no number; give best a key"),
        ((1, "max", lambda job: None), "key gave a NoneType for job 1"),
        ((1, "max", lambda job: "3"), "key gave a str for job 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        best_of(jobs_with({"loss": 1}), *arguments)


def test_an_error_of_the_key_is_the_users_own():
    with pytest.raises(KeyError):
        best_of(jobs_with({"loss": 1}), 1, "max", lambda job: job.result["accuracy"])
