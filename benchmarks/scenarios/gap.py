"""How long a slot waits between two jobs, by time stamps that the run function takes."""

from __future__ import annotations

import statistics

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, percentile
from benchmarks.functions import timed
from benchmarks.spans import gaps_ms, spans_of
from benchmarks.stage import SLOTS, Stage, open_stage

TITLE = "from the end of a job to the start of the next on its slot; jobs that sleep so long, two slots"

WARM = 40
"""Jobs before the measured ones: a worker learns from 20 how long they take."""

NO_OPS = 2000

SLEEPS_MS = (0, 10, 150)


def measure(extent: Extent, progress: Progress) -> Found:
    found = Found()
    rounds: dict[str, list[float]] = {}
    for method in ("thread", "process"):
        for sleep_ms in SLEEPS_MS:
            name = f"{method} {sleep_ms} ms"
            gaps: list[float] = []
            with open_stage() as stage:
                for number in range(extent.rounds):
                    progress(f"gap, {name}, round {number + 1} of {extent.rounds}")
                    gaps += _round(stage, method, sleep_ms / 1000, extent.seconds)
            note = f"of {len(gaps):,}"
            found.rows += [
                Row(f"{name} median", f"{method}, {sleep_ms} ms, median", statistics.median(gaps), "ms"),
                Row(f"{name} p99", "  99th percentile", percentile(gaps, 0.99), "ms", note),
            ]
            rounds[name] = gaps
    found.rounds = rounds
    return found


def _round(stage: Stage, method: str, sleep_s: float, seconds: float) -> list[float]:
    jobs = int(SLOTS * seconds / sleep_s) if sleep_s else NO_OPS
    with (
        stage.evaluator(timed, method) as evaluator,
        stage.worker(campaign=evaluator.campaign),
    ):
        for first, count in ((0, WARM), (WARM, jobs)):
            evaluator.submit([{"x": first + i, "sleep": sleep_s} for i in range(count)])
            spans = spans_of(evaluator.gather("ALL"), count)
    return gaps_ms(spans)
