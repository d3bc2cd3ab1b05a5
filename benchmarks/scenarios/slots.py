"""How much of the slots' time jobs of 100 ms have, in the steady state; see `benchmarks.spans.use`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.functions import timed
from benchmarks.spans import Span, spans_of, use
from benchmarks.stage import Stage, open_stage

TITLE = "share of the slots' time in which jobs run, jobs that sleep 100 ms"

SLEEP_S = 0.1
WARM_S = 1.0

FLEETS = (
    ("thread", 1, 2), ("process", 1, 2), ("thread", 1, 64), ("process", 1, 64), ("thread", 1, 256),
    ("thread", 8, 32),
)  # fmt: skip


def measure(extent: Extent, progress: Progress) -> Found:
    found = Found()
    rounds: dict[str, list[float]] = {}
    for slots in (2, 256):
        shares = [use(_futures(slots, extent.seconds), slots, WARM_S) for _ in range(extent.rounds)]
        what = f"ThreadPoolExecutor of {slots}, nothing durable"
        found.rows.append(Row(f"futures {slots}", what, statistics.median(shares), "%", "the limit"))
    for method, workers, slots in FLEETS:
        name = f"{method} {workers}x{slots}"
        shares = []
        with open_stage() as stage:
            for number in range(extent.rounds):
                progress(f"slots, {name}, round {number + 1} of {extent.rounds}")
                shares.append(use(_ours(stage, method, workers, slots, extent), workers * slots, WARM_S))
        what = f"{method}, {workers} worker{'s' if workers > 1 else ''} of {slots}"
        lowest = f"lowest {min(shares):.1f}"
        found.rows.append(Row(name, what, statistics.median(shares), "%", lowest))
        rounds[name] = shares
    found.rounds = rounds
    return found


def _jobs(slots: int, seconds: float) -> list[dict[str, float]]:
    return [{"x": x, "sleep": SLEEP_S} for x in range(int(slots * (WARM_S + seconds) / SLEEP_S))]


def _ours(stage: Stage, method: str, workers: int, slots: int, extent: Extent) -> Sequence[Span]:
    configs = _jobs(workers * slots, extent.seconds)
    warm = _jobs(workers * slots, 0.0)
    with ExitStack() as stack:
        evaluator = stack.enter_context(stage.evaluator(timed, method, reuse=False))
        for _ in range(workers):
            stack.enter_context(stage.worker(campaign=evaluator.campaign, slots=slots))
        for batch in (warm, configs):  # first all processes are started
            evaluator.submit(batch)
            spans = spans_of(evaluator.gather("ALL"), len(batch))
    return spans


def _futures(slots: int, seconds: float) -> Sequence[Span]:
    with ThreadPoolExecutor(slots) as pool:
        results = list(pool.map(timed, _jobs(slots, seconds)))
    return sorted((Span(*result[1:]) for result in results), key=lambda span: span.began)
