"""A campaign of many finished jobs, filled once for the scenarios that look at its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.extent import Progress
from benchmarks.stage import BATCH, Driver, Stage, open_stage

BLOCK = 10_000


@dataclass(frozen=True)
class Filled:
    """A campaign and how it came to be."""

    stage: Stage
    driver: Driver
    bytes_per_job: float
    """By how much the server's memory has grown, for each job."""
    curve: list[tuple[int, float]]
    """Jobs in the campaign, and microseconds per job that the next block took."""


@contextmanager
def filled(size: int, progress: Progress, what: str, **options: Any) -> Iterator[Filled]:
    """On a server of its own, with a worker of threads that is warm. The driver keeps no gathered jobs."""
    with open_stage() as stage, stage.driver("thread", keep_jobs=False, **options) as driver:
        used, before = stage.used_memory(), driver.submitted
        curve = []
        while (there := driver.submitted) < size:
            progress(f"{what}: {there:,} of {size:,} jobs")
            block = min(BLOCK, size - there)
            curve.append((there, 1e6 * driver.run(block, batch=BATCH) / block))
        grown = stage.used_memory() - used
        yield Filled(stage, driver, grown / max(driver.submitted - before, 1), curve)
