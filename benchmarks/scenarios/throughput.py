"""No-op evaluations per second, each method beside its limit in the same round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack

from benchmarks.bare import BareLoop
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, ratio
from benchmarks.functions import small_configs
from benchmarks.peers.outside import Outside
from benchmarks.stage import BATCH, SLOTS, open_stage

TITLE = "no-op evaluations per second, configs of three fields, two slots, appendfsync always"

SUBPROCESS_SHARE = 100
"""`subprocess` starts an interpreter for each job: so many times fewer jobs."""

METHODS = ("thread", "process", "subprocess")


def measure(extent: Extent, progress: Progress) -> Found:
    rates: dict[str, list[float]] = {name: [] for name in ("bare", "pool", *METHODS, "interpreters")}
    few = max(2 * SLOTS, extent.jobs // SUBPROCESS_SHARE)
    with ExitStack() as stack:
        stage = stack.enter_context(open_stage())
        bare = stack.enter_context(BareLoop(stage.home))
        pool = stack.enter_context(Outside("pool", sys.executable))
        drivers = {method: stack.enter_context(stage.driver(method)) for method in METHODS}
        bare.run(small_configs(0, BATCH))
        pool.run(BATCH)
        for number in range(extent.rounds):
            progress(f"throughput, round {number + 1} of {extent.rounds}")
            rates["bare"].append(extent.jobs / bare.run(small_configs(0, extent.jobs)))
            rates["pool"].append(extent.jobs / pool.run(extent.jobs))
            for method, driver in drivers.items():
                jobs = few if method == "subprocess" else extent.jobs
                rates[method].append(jobs / driver.run(jobs, batch=BATCH))
            rates["interpreters"].append(few / _start_interpreters(few))
    per_s = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        Row("bare", "bare loop of the same server", per_s["bare"], "/s", "the limit"),
        Row("pool", "ProcessPoolExecutor, a future for each", per_s["pool"], "/s", "not durable"),
    ]
    for method in ("thread", "process"):
        rows.append(Row(method, method, per_s[method], "/s"))
        rows.append(Row(f"{method} of bare", "  to the bare loop", ratio(rates[method], rates["bare"]), ""))
        share = ratio(rates[method], rates["pool"])
        rows.append(Row(f"{method} of pool", "  to ProcessPoolExecutor", share, ""))
    share = ratio(rates["subprocess"], rates["interpreters"])
    warm_ms = 1000 * SLOTS * (1 / per_s["subprocess"] - 1 / per_s["process"])
    rows += [
        Row("interpreters", "python -c pass, two at once", per_s["interpreters"], "/s", "the limit"),
        Row("subprocess", "subprocess", per_s["subprocess"], "/s"),
        Row("subprocess of interpreters", "  to python -c pass", share, ""),
        Row("subprocess warm", "  what a warm start would save, per job", warm_ms, "ms", "against process"),
    ]
    return Found(rows, rates)


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


