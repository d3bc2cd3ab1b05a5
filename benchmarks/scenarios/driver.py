"""CPU time for each job, by who spends it; the driver is this process."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import psutil

from benchmarks.bare import BareLoop
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.functions import small_configs
from benchmarks.machine import cpu_s
from benchmarks.stage import BATCH, open_stage

TITLE = "CPU time per job submitted and gathered"


def measure(extent: Extent, progress: Progress) -> Found:
    costs: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        costs.setdefault(name, []).append(1e6 * seconds / extent.jobs)

    with ExitStack() as stack:
        stage = stack.enter_context(open_stage())
        bare = stack.enter_context(BareLoop(stage.home))
        drivers = {method: stack.enter_context(stage.driver(method)) for method in ("thread", "process")}
        server = stage.server_process()
        for number in range(extent.rounds):
            progress(f"driver, round {number + 1} of {extent.rounds}")
            before = time.process_time()
            bare.run(small_configs(0, extent.jobs))
            note("bare driver", time.process_time() - before)
            for method, driver in drivers.items():
                family = driver.worker.family()
                watched: dict[str, list[psutil.Process]] = {
                    "worker": family[:1], "children": family[1:], "server": [server],
                }  # fmt: skip
                spent = {name: sum(map(cpu_s, processes)) for name, processes in watched.items()}
                configs = small_configs(driver.submitted, extent.jobs)
                driver.submitted += extent.jobs
                submit_s, gather_s = driver.cpu_of(configs, batch=BATCH)
                for name, processes in watched.items():
                    note(f"{method} {name}", sum(map(cpu_s, processes)) - spent[name])
                note(f"{method} submit", submit_s)
                note(f"{method} gather", gather_s)
                note(f"{method} driver", submit_s + gather_s)
    bare_us = statistics.median(costs["bare driver"])
    rows = [Row("bare driver", "bare loop, driver", bare_us, "µs", "the limit")]
    for method in drivers:
        for name in ("driver", "submit", "gather", "worker", "children", "server"):
            indent = "    " if name in ("submit", "gather") else "  "
            what = f"{method}, driver" if name == "driver" else f"{indent}{name}"
            rows.append(Row(f"{method} {name}", what, statistics.median(costs[f"{method} {name}"]), "µs"))
    return Found(rows, costs)
