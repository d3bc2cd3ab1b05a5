"""What running jobs say and hear: reports to the server, and requests to stop early."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, percentile
from benchmarks.functions import report_evenly, time_reports, until_stopped
from benchmarks.stage import Stage, open_stage
from queue_eval import Evaluator

TITLE = "reports of running jobs, and requests to stop early; 64 slots, method process, appendfsync always"

SLOTS = 64

OFFERED_PER_S = 500
"""Reports of each job in a second: 32,000 of all."""

BURST = 10
"""Reports that a job makes between two sleeps."""

PACES = {"slow": 0.05, "fast": 0.0011}
"""Seconds between two reports: each is sent at once, or waits for others. A job may make 1,000 a second."""

STOPPED_ALONE = 32
_PATIENCE_S = 120.0


def measure(extent: Extent, progress: Progress) -> Found:
    rounds: dict[str, list[float]] = {}

    def note(name: str, *values: float) -> None:
        rounds.setdefault(name, []).extend(values)

    with open_stage() as stage:
        for number in range(extent.rounds):
            progress(f"inside, round {number + 1} of {extent.rounds}")
            per_s, lost = _reports(stage, 2 * extent.seconds)
            note("reports", per_s)
            note("lost", lost)
            for pace, pause_s in PACES.items():
                note(f"report {pace}", *_costs_us(stage, int(extent.seconds / pause_s), pause_s))
            alone, together = _stops_ms(stage)
            note("stop one", *alone)
            note("stop all", *together)
    rows = [
        Row("reports", "reports that arrive, from 64 jobs", statistics.median(rounds["reports"]), "/s",
            f"of {SLOTS * OFFERED_PER_S:,} offered"),
        Row("lost", "  dropped on the way, and counted", 100 * statistics.median(rounds["lost"]), "%"),
    ]  # fmt: skip
    for pace, pause_s in PACES.items():
        costs = rounds[f"report {pace}"]
        what = f"a report adds to the run function, {1 / pause_s:,.0f} a second, mean"
        rows += [
            Row(f"report {pace}", what, statistics.fmean(costs), "µs", f"of {len(costs):,}"),
            Row(f"report {pace} median", "  median", statistics.median(costs), "µs"),
        ]
    for key, what in (("stop one", "from stop([job]) until that job sees it"), ("stop all", "from stop()")):
        values = rounds[key]
        rows += [
            Row(key, f"{what}, median", statistics.median(values), "ms", f"of {len(values)}"),
            Row(f"{key} p99", "  99th percentile", percentile(values, 0.99), "ms"),
        ]
    return Found(rows, rounds)


def _reports(stage: Stage, seconds: float) -> tuple[float, float]:
    """Reports per second that are on the server, and the share of those that were made and are not."""
    each = int(OFFERED_PER_S * seconds)
    config = {"reports": each, "burst": BURST, "per_s": OFFERED_PER_S}
    with _running(stage, report_evenly, SLOTS, **config) as (evaluator, log):
        log.unlink()
        jobs = evaluator.gather("ALL")
        ended = time.clock_gettime(time.CLOCK_MONOTONIC)
        arrived = sum(len(job.reports) for job in jobs)
    if len(jobs) != SLOTS or any(not isinstance(job.result, list) for job in jobs):
        raise RuntimeError(f"not all of {SLOTS} reporting jobs have succeeded")
    return arrived / (ended - min(job.result[1] for job in jobs)), 1 - arrived / (SLOTS * each)


def _costs_us(stage: Stage, reports: int, pause_s: float) -> list[float]:
    with (
        stage.evaluator(time_reports, "process") as evaluator,
        stage.worker(campaign=evaluator.campaign, slots=1),
    ):
        evaluator.submit([{"x": 0, "reports": reports, "compute": pause_s}])
        (job,) = evaluator.gather("ALL")
        if len(job.reports) != reports:
            raise RuntimeError(f"{len(job.reports)} of {reports} reports have arrived")
    return [1e6 * seconds for seconds in job.result[1:]]  # The first one imports.


def _stops_ms(stage: Stage) -> tuple[list[float], list[float]]:
    """From the call until the job sees it: of jobs that are stopped alone, and of 64 at once.

    Behind each that is stopped alone another one begins, so that always 64 run.
    """
    asked: dict[int, float] = {}
    with _running(stage, until_stopped, SLOTS + STOPPED_ALONE) as (evaluator, log):
        for count, job in enumerate(evaluator.jobs[:STOPPED_ALONE], start=1):
            asked[job.id] = time.clock_gettime(time.CLOCK_MONOTONIC)
            evaluator.stop([job])
            _wait_for_lines(log, SLOTS + count)
        asked_all = time.clock_gettime(time.CLOCK_MONOTONIC)
        evaluator.stop()
        jobs = evaluator.gather("ALL")
    if len(jobs) != SLOTS + STOPPED_ALONE or not all(job.stopped_early for job in jobs):
        raise RuntimeError("not all jobs were stopped early")
    alone = [1000 * (job.result - asked[job.id]) for job in jobs if job.id in asked]
    return alone, [1000 * (job.result - asked_all) for job in jobs if job.id not in asked]


@contextmanager
def _running(stage: Stage, function: Any, count: int, **config: Any) -> Iterator[tuple[Evaluator, Path]]:
    """So many jobs of a new campaign, of which 64 have begun, and the file in which they note that."""
    with (
        stage.evaluator(function, "process") as evaluator,
        stage.worker(campaign=evaluator.campaign, slots=SLOTS),
    ):
        log = stage.home / f"{evaluator.campaign}.log"
        log.touch()
        evaluator.submit([{"x": x, "log": str(log), **config} for x in range(count)])
        _wait_for_lines(log, SLOTS)
        yield evaluator, log


def _wait_for_lines(log: Path, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while len(log.read_text().splitlines()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing has happened for {_PATIENCE_S:g} s")
        time.sleep(0.01)
