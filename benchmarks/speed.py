"""Throughput and round trips of no-op jobs, each beside its limit in the same round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from bare import BareLoop
from functions import small_configs
from stage import SLOTS, Stage

BATCH = 500
"""Configs per submit, ours and bare alike."""

SUBPROCESS_SHARE = 100
"""`subprocess` starts an interpreter for each job: so many times fewer jobs."""

SUBPROCESS_TRIPS = 10
"""Likewise, so many times fewer round trips."""

Progress = Callable[[str], None]


def throughput(
    stage: Stage, methods: Sequence[str], jobs: int, rounds: int, progress: Progress
) -> dict[str, Any]:
    """Evaluations per second: every round measures the bare loop and all methods, one after the other."""
    rates: dict[str, list[float]] = {name: [] for name in ("bare", *methods)}
    with ExitStack() as stack:
        bare = stack.enter_context(BareLoop(stage.home))
        drivers = {method: stack.enter_context(stage.driver(method)) for method in methods}
        _run_bare(bare, BATCH)
        for number in range(rounds):
            progress(f"throughput, round {number + 1} of {rounds}")
            rates["bare"].append(jobs / _run_bare(bare, jobs))
            for method, driver in drivers.items():
                count = jobs_of(method, jobs)
                rates[method].append(count / driver.run(count, batch=BATCH))
            if "subprocess" in drivers:
                count = jobs_of("subprocess", jobs)
                rates.setdefault("interpreters", []).append(count / _start_interpreters(count))
    result: dict[str, Any] = {
        name: {"per_s": statistics.median(values), "rounds": values} for name, values in rates.items()
    }
    for method in methods:
        result[method]["jobs"] = jobs_of(method, jobs)
        result[method]["to_bare"] = _ratio(rates[method], rates["bare"])
    if "subprocess" in methods:
        result["subprocess"]["to_interpreters"] = _ratio(rates["subprocess"], rates["interpreters"])
    return result


def round_trips(
    stage: Stage, methods: Sequence[str], trips: int, rounds: int, progress: Progress
) -> dict[str, Any]:
    """Milliseconds from submitting one job to having gathered it, with nothing else to do."""
    times_ms: dict[str, list[float]] = {name: [] for name in ("bare", *methods)}
    with ExitStack() as stack:
        bare = stack.enter_context(BareLoop(stage.home))
        drivers = {method: stack.enter_context(stage.driver(method)) for method in methods}
        _run_bare(bare, BATCH)
        for number in range(rounds):
            progress(f"round trips, round {number + 1} of {rounds}")
            times_ms["bare"] += [1000 * _run_bare(bare, 1) for _ in range(trips // rounds)]
            for method, driver in drivers.items():
                count = trips // rounds // (SUBPROCESS_TRIPS if method == "subprocess" else 1)
                times_ms[method] += [1000 * driver.run(1, batch=1) for _ in range(count)]
    return {name: _spread(values) for name, values in times_ms.items()}


def jobs_of(method: str, jobs: int) -> int:
    return max(2 * SLOTS, jobs // SUBPROCESS_SHARE) if method == "subprocess" else jobs


def _run_bare(bare: BareLoop, jobs: int) -> float:
    configs = small_configs(0, jobs)
    began = time.perf_counter()
    for at in range(0, jobs, BATCH):
        bare.submit(configs[at : at + BATCH])
    results = bare.gather(jobs)
    took_s = time.perf_counter() - began
    if len(results) != jobs:
        raise RuntimeError(f"{len(results)} of {jobs} results came back through the bare loop")
    bare.forget()
    return took_s


def _start_interpreters(count: int) -> float:
    """What `subprocess` cannot undercut: that many interpreters that do nothing, as many at once."""
    began = time.perf_counter()
    running: deque[subprocess.Popen[bytes]] = deque()
    for _ in range(count):
        if len(running) == SLOTS:
            running.popleft().wait()
        running.append(subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.DEVNULL))
    for process in running:
        process.wait()
    return time.perf_counter() - began


def _ratio(ours: Sequence[float], limit: Sequence[float]) -> float:
    """Median of the ratios within each round: what else the machine does changes from round to round."""
    return statistics.median(a / b for a, b in zip(ours, limit, strict=True))


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median_ms": statistics.median(ordered),
        "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "trips": len(ordered),
    }
