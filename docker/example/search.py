"""An example driver: killed and started again, it goes on where it was."""

from __future__ import annotations

import os
from collections import Counter

from model import run

from queue_eval import Evaluator

if __name__ == "__main__":
    method = os.environ.get("METHOD", "process")
    # Ray and RQ are given that many at a time; workers of ours have slots.
    options = {"campaign": f"parabola-{method}", "max_attempts": 2, "num_workers": 8}
    with Evaluator.create(run, method, options) as evaluator:
        evaluator.submit([{"x": x} for x in range(40)])
        jobs = evaluator.gather("ALL")
        evaluator.dump_evals(log_dir=os.environ.get("RESULTS", "/results"))
    best = max(jobs, key=lambda job: job.result["objective"])
    hosts = Counter(job.result["host"] for job in jobs)
    where = f"{len(jobs)} evaluations on {len(hosts)} hosts"
    print(f"{where}, best x = {best.config['x']}: {best.result}")  # noqa: T201 - what the script is for
