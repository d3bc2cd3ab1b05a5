"""Big results."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from benchmarks.bare import BareLoop
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, ratio
from benchmarks.functions import sized
from benchmarks.stage import open_stage
from queue_eval import Evaluator

TITLE = "results of 1 MB, two process slots, appendfsync always"

MB = 1_000_000
JOBS = 100
HUGE = 100 * MB


def measure(extent: Extent, progress: Progress) -> Found:
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    configs = [{"x": x, "bytes": MB} for x in range(JOBS)]
    with ExitStack() as stack:
        stage = stack.enter_context(open_stage())
        bare = stack.enter_context(BareLoop(stage.home))
        evaluator = stack.enter_context(stage.evaluator(sized, "process", reuse=False))
        stack.enter_context(stage.worker(campaign=evaluator.campaign))
        _run(evaluator, configs[:4])
        for number in range(extent.rounds):
            progress(f"big results, round {number + 1} of {extent.rounds}")
            rates["bare"].append(JOBS * MB / 1e6 / bare.run(configs))
            rates["ours"].append(JOBS * MB / 1e6 / _run(evaluator, configs))
        progress("a huge result")
        began = time.perf_counter()
        evaluator.submit([{"x": 0, "bytes": HUGE}])
        (huge,) = evaluator.gather("ALL")
        took_s = time.perf_counter() - began
    if huge.state == "succeeded" and huge.result != "x" * HUGE:
        raise RuntimeError("a result of 100 MB came back changed")
    said = (huge.error or "").strip().splitlines()
    became = f"{huge.state}: {said[-1]}" if said else huge.state
    rows = [
        Row("bare", "bare loop of the same server", statistics.median(rates["bare"]), "MB/s", "the limit"),
        Row("rate", "ours", statistics.median(rates["ours"]), "MB/s"),
        Row("of bare", "  to the bare loop", ratio(rates["ours"], rates["bare"]), ""),
        Row("huge", "one of 100 MB", took_s, "s", became),
    ]
    return Found(rows, rates)


def _run(evaluator: Evaluator, configs: list[dict[str, int]]) -> float:
    began = time.perf_counter()
    evaluator.submit(configs)
    jobs = evaluator.gather("ALL")
    took_s = time.perf_counter() - began
    if len(jobs) != len(configs) or any(job.result != "x" * MB for job in jobs):
        raise RuntimeError(f"{len(jobs)} of {len(configs)} big results came back, or wrong ones")
    return took_s
