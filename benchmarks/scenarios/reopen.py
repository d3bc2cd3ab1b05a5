"""What a driver waits for that opens a campaign of many finished jobs, in a fresh interpreter."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.bare import ROOT
from benchmarks.campaigns import filled
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row

TITLE = "reopening a campaign of finished jobs, after the imports"

_DRIVER = """
import json, sys, time
from benchmarks.functions import no_op, small_configs
from queue_eval import Evaluator
import queue_eval.evaluators
home, campaign, size, fresh = json.loads(sys.argv[1])
options = {"home": home, "campaign": campaign, "local_workers": False, "num_workers": 2}
times = [time.perf_counter()]
evaluator = Evaluator.create(no_op, "thread", options)
evaluator.submit(small_configs(0, 1) + small_configs(fresh, 1))
first = evaluator.gather("ALL")
times.append(time.perf_counter())
history = evaluator.history()
times.append(time.perf_counter())
assert sorted(job.result for job in first) == [0, fresh], first
assert len(history) == size, len(history)
assert all(job.result == job.config["x"] for job in history)
evaluator.close()
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def measure(extent: Extent, progress: Progress) -> Found:
    first_s, rates = [], []
    with filled(extent.size, progress, "reopen") as campaign:
        home, name = str(campaign.stage.home), campaign.driver.evaluator.campaign
        for number in range(extent.rounds):
            progress(f"reopen, round {number + 1} of {extent.rounds}")
            size = campaign.driver.submitted
            asked = json.dumps([home, name, size, size])
            campaign.driver.submitted += 1
            done = subprocess.check_output([sys.executable, "-c", _DRIVER, asked], cwd=ROOT)
            opening_s, history_s = json.loads(done)
            first_s.append(opening_s)
            rates.append(size / history_s)
    what = "open, submit a finished and a new config, gather both"
    at = f"at {extent.size:,} jobs"
    rows = [
        Row("first", what, statistics.median(first_s), "s", at),
        Row("history", "history()", statistics.median(rates), "/s", at),
    ]
    return Found(rows, {"first_s": first_s, "history_per_s": rates})
