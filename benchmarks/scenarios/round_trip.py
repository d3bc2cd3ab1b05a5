"""From submitting one job to having gathered it, with an idle worker."""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from benchmarks.bare import BareLoop
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, percentile
from benchmarks.functions import small_configs
from benchmarks.stage import open_stage

TITLE = "round trip of one job, driver to worker's child and back"

SUBPROCESS_SHARE = 10
"""`subprocess` starts an interpreter for each job: so many times fewer trips."""

METHODS = ("thread", "process", "subprocess")


def measure(extent: Extent, progress: Progress) -> Found:
    found = Found()
    rounds: dict[str, list[float]] = {}
    for fsync in ("always", "everysec"):
        times_ms = _trips(extent, progress, fsync)
        for name, values in times_ms.items():
            median, p99 = statistics.median(values), percentile(values, 0.99)
            what = "bare, through two streams" if name == "bare" else name
            found.rows.append(Row(f"{fsync} {name} median", f"{fsync}: {what}, median", median, "ms"))
            note = f"of {len(values)}"
            found.rows.append(Row(f"{fsync} {name} p99", "  99th percentile", p99, "ms", note))
            rounds[f"{fsync} {name}"] = values
    found.rounds = rounds
    return found


def _trips(extent: Extent, progress: Progress, fsync: str) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {name: [] for name in ("bare", *METHODS)}
    with ExitStack() as stack:
        stage = stack.enter_context(open_stage(fsync))
        bare = stack.enter_context(BareLoop(stage.home))
        drivers = {method: stack.enter_context(stage.driver(method)) for method in METHODS}
        bare.run(small_configs(0, 500))
        trips = extent.trips // extent.rounds
        for number in range(extent.rounds):
            progress(f"round trips, {fsync}, round {number + 1} of {extent.rounds}")
            times_ms["bare"] += [1000 * bare.run(small_configs(0, 1)) for _ in range(trips)]
            for method, driver in drivers.items():
                count = trips // SUBPROCESS_SHARE if method == "subprocess" else trips
                times_ms[method] += [1000 * driver.run(1, batch=1) for _ in range(max(count, 1))]
    return times_ms
