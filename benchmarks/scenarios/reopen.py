"""What a driver waits for that opens a campaign of many finished jobs, in a fresh interpreter."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.bare import ROOT
from benchmarks.campaigns import filled
from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, ratio

TITLE = "reopening a campaign of finished jobs, after the imports"

_DRIVER = """
import json, sys, time
from benchmarks.functions import no_op, small_configs
from queue_eval import Evaluator
import queue_eval.driver.evaluators
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


_RESUMED = """
import json, sys, time
from benchmarks.functions import no_op, small_configs
from queue_eval import Evaluator
import queue_eval.driver.evaluators
home, campaign, size, taking = json.loads(sys.argv[1])
options = {"home": home, "campaign": campaign, "local_workers": False, "num_workers": 2}
configs = small_configs(0, size)
evaluator = Evaluator.create(no_op, "thread", options)
began = time.perf_counter()
evaluator.submit(configs)
right = 0
for job in evaluator.gather("ALL") if taking == "gather" else evaluator.as_completed():
    right += job.result == job.config["x"]
took_s = time.perf_counter() - began
assert right == size == evaluator.num_gathered, (right, evaluator.num_gathered)
evaluator.close()
print(json.dumps(took_s))
"""


def measure(extent: Extent, progress: Progress) -> Found:
    first_s, rates = [], []
    resumed_s: dict[str, list[float]] = {"gather": [], "as_completed": []}
    with filled(extent.size, progress, "reopen") as campaign:
        home, name = str(campaign.stage.home), campaign.driver.evaluator.campaign
        for number in range(extent.rounds):
            progress(f"reopen, round {number + 1} of {extent.rounds}")
            size = campaign.driver.submitted
            campaign.driver.submitted += 1
            opening_s, history_s = _run(_DRIVER, home, name, size, size)
            first_s.append(opening_s)
            rates.append(size / history_s)
            for taking, times in resumed_s.items():
                times.append(_run(_RESUMED, home, name, campaign.driver.submitted, taking))
    what = "open, submit a finished and a new config, gather both"
    at = f"at {extent.size:,} jobs"
    again = "submit all again, take them by"
    gather_s, iterator_s = (statistics.median(times) for times in resumed_s.values())
    rows = [
        Row("first", what, statistics.median(first_s), "s", at),
        Row("history", "history()", statistics.median(rates), "/s", at),
        Row("resumed gather", f'{again} gather("ALL")', gather_s, "s", at),
        Row("resumed as_completed", f"{again} as_completed()", iterator_s, "s", at),
        Row("resumed ratio", "  ratio", ratio(resumed_s["as_completed"], resumed_s["gather"]), ""),
    ]
    return Found(rows, {"first_s": first_s, "history_per_s": rates, "resumed_s": resumed_s})


def _run(script: str, *arguments: Any) -> Any:
    """What the script prints, in an interpreter of its own."""
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    return json.loads(subprocess.check_output(command, cwd=ROOT))
