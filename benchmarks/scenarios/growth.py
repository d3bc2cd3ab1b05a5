"""What a job costs in a campaign of many jobs, against one in a campaign of 10,000.

Each campaign is on a server of its own, with a warm worker; blocks of jobs go to the big one and to a new
small one in turn; each is in use just before. A block is submitted while the campaign is paused, then worked
off while the driver does nothing, then gathered: so each step is measured alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.campaigns import Filled, filled
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, ratio
from benchmarks.functions import small_configs
from benchmarks.stage import BATCH, check
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import Keys

TITLE = "what a job costs in a big campaign, against one in a small campaign"

SMALL = 10_000
BLOCK = 5000
TRIPS = 100

STEPS = {
    "submit": "submit, time of the driver",
    "server": "lease and settle, time of the server",
    "gather": "gather, time of the driver",
    "one": "submit one, gather one",
}


def measure(extent: Extent, progress: Progress) -> Found:
    small_size = min(SMALL, extent.size)
    costs: dict[str, dict[str, list[float]]]
    costs = {size: {step: [] for step in STEPS} for size in ("small", "big")}
    with filled(extent.size, progress, "growth, big campaign") as big:
        for number in range(2 * extent.rounds):
            progress(f"growth, round {number + 1} of {2 * extent.rounds}")
            with filled(small_size, lambda _: None, "") as small:
                for size, campaign in (("small", small), ("big", big)):
                    # What stood still while the other was measured has gone from the processor's caches.
                    campaign.driver.run(BLOCK, batch=BATCH)
                    for step, cost_us in _block(campaign).items():
                        costs[size][step].append(cost_us)
        curve = big.curve
    rows = []
    for step, what in STEPS.items():
        few, many = (statistics.median(costs[size][step]) for size in ("small", "big"))
        rows.append(Row(f"{step} small", what, few, "µs", f"at {small_size:,}"))
        rows.append(Row(f"{step} big", "", many, "µs", f"at {extent.size:,}"))
        rows.append(Row(f"{step} ratio", "  ratio", ratio(costs["big"][step], costs["small"][step]), ""))
    return Found(rows, {"costs_us": costs, "curve": curve})


def _block(campaign: Filled) -> dict[str, float]:
    """Microseconds per job of each step."""
    stage, driver = campaign.stage, campaign.driver
    evaluator = driver.evaluator
    queue = CampaignCommands.attach(stage.link, evaluator.campaign)[0]
    index = Keys(evaluator.campaign).index
    configs = small_configs(driver.submitted, BLOCK)
    driver.submitted += BLOCK
    queue.pause(True)
    began = time.perf_counter()
    for at in range(0, BLOCK, BATCH):
        evaluator.submit(configs[at : at + BATCH])
    submit_s = time.perf_counter() - began
    before_us = stage.script_us()
    queue.pause(False)
    queue.notify("resume")
    _wait(lambda: stage.link.client.hlen(index) == driver.submitted)
    server_us = stage.script_us() - before_us
    began = time.perf_counter()
    gathered = evaluator.gather("ALL")
    gather_s = time.perf_counter() - began
    check(gathered, BLOCK)
    trips_s = [driver.run(1, batch=1) for _ in range(TRIPS)]
    return {
        "submit": 1e6 * submit_s / BLOCK,
        "server": server_us / BLOCK,
        "gather": 1e6 * gather_s / BLOCK,
        "one": 1e6 * statistics.median(trips_s),
    }


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the worker has not worked off a block within 60 s")
        time.sleep(0.005)
