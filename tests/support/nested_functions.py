"""Run functions that are drivers themselves, as some users' are."""

from __future__ import annotations

import os
from typing import Any

from queue_eval import Evaluator
from queue_eval.marks import INSIDE_JOB


def sum_of_squares(config: dict[str, Any]) -> int:
    """A search within a job: each term is a job of another campaign, `depth` levels deep."""
    if config["depth"] == 0:
        return int(config["x"] ** 2)
    # Without a name of its own each is a campaign of its own.
    keywords = {"home": config["home"], "num_workers": 1}
    configs = [config | {"x": x, "depth": config["depth"] - 1} for x in range(config["x"])]
    for one in configs:
        one.pop("id")
    with Evaluator.create(sum_of_squares, config["method"], keywords) as evaluator:
        jobs = evaluator.submit(configs)
        evaluator.gather("ALL")
        assert all(job.error is None for job in jobs), jobs[0].error
        return sum(job.result for job in jobs)


def without_own_workers(config: dict[str, Any]) -> Any:
    """Waits for a job of `campaign`, maybe its own one, without starting workers; what it is told."""
    import warnings

    if config.get("inner"):
        return "inner"
    keywords = {"home": config["home"], "campaign": config["campaign"], "local_workers": False}
    function = "tests.support.nested_functions:without_own_workers"
    with (
        warnings.catch_warnings(record=True) as said,
        Evaluator.create(function, "process", keywords) as evaluator,
    ):
        warnings.simplefilter("always")
        jobs = evaluator.submit([{"inner": True}])
        while not said:
            evaluator.gather("ALL", timeout=0.5)
        evaluator.cancel(jobs)  # not the adopted one, which this is
    return str(said[0].message)


def inside(config: dict[str, Any]) -> str | None:
    """The campaign that user code is told it runs for."""
    return os.environ.get(INSIDE_JOB)
