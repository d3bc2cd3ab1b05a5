"""What a campaign's size costs: time per job, and the server's memory."""

from __future__ import annotations

import statistics
from typing import Any

from speed import BATCH, Progress
from stage import Driver, Stage

from queue_eval.keys import Keys


def growth_and_memory(stage: Stage, size: int, block: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """Submit and gather `block` jobs in new campaigns and in one that holds `size` finished jobs.

    The new campaigns are measured before and after the big one: a machine that gets busier or quieter
    meanwhile does not show as growth.
    """
    progress("growth: small campaigns")
    small_s = [_new_campaign(stage, block) for _ in range(rounds)]
    used_before = _used_memory(stage)
    with stage.driver("thread") as driver:
        _fill(driver, size - block, block, progress)
        big_s = [driver.run(block, batch=BATCH)]
        memory = _memory(stage, driver, used_before)
        big_s += [driver.run(block, batch=BATCH) for _ in range(rounds - 1)]
    progress("growth: small campaigns again")
    small_s += [_new_campaign(stage, block) for _ in range(rounds)]
    small, big = statistics.median(small_s), statistics.median(big_s)
    growth = {
        "block": block,
        "size": size,
        "small_us_per_job": 1e6 * small / block,
        "big_us_per_job": 1e6 * big / block,
        "ratio": big / small,
        "small_rounds_s": small_s,
        "big_rounds_s": big_s,
    }
    used_before = _used_memory(stage)
    with stage.driver("thread", reuse=False) as driver:
        _fill(driver, size, block, progress)
        without_reuse = _memory(stage, driver, used_before)
    return {"growth": growth, "memory": {"reuse": memory, "no_reuse": without_reuse}}


def _new_campaign(stage: Stage, block: int) -> float:
    with stage.driver("thread") as driver:
        return driver.run(block, batch=BATCH)


def _fill(driver: Driver, size: int, block: int, progress: Progress) -> None:
    while driver.submitted < size:
        progress(f"growth: {driver.submitted} of {size} jobs")
        driver.run(min(block, size - driver.submitted), batch=BATCH)


def _used_memory(stage: Stage) -> int:
    return int(stage.link.client.info("memory")["used_memory"])


def _memory(stage: Stage, driver: Driver, used_before: int) -> dict[str, Any]:
    """Bytes per finished job: by what the server uses in all, and what each key takes."""
    jobs = driver.submitted
    keys = Keys(driver.evaluator.campaign)
    names = dict(zip(keys.columns, (key.rpartition(":")[2] for key in keys.columns), strict=True))
    client = stage.link.client
    sizes = {name: int(client.memory_usage(key, samples=0) or 0) / jobs for key, name in names.items()}
    return {
        "jobs": jobs,
        "bytes_per_job": (_used_memory(stage) - used_before) / jobs,
        "by_key": {name: size for name, size in sizes.items() if size >= 0.05},
    }
