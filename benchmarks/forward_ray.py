"""What forwarding to Ray costs: evaluations through queue_eval beside the same tasks of a plain Ray driver.

Both run against one Ray of two CPUs, in turn, in one run; the ratio is what counts. Ours is durable: each
result is on disk before it is gathered.

    python -m benchmarks.forward_ray [--jobs 3000] [--repeat 3] [--sleep 0.0]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from queue_eval import Evaluator
from queue_eval.server.lifecycle import stop_server
from tests.support.ray_cluster import RayCluster

PLAIN = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

def evaluate(config):
    if config["sleep"]:
        time.sleep(config["sleep"])
    return config["x"]

remote = ray.remote(num_cpus=1, max_retries=0)(evaluate)
count, pause = int(sys.argv[2]), float(sys.argv[3])
ray.get([remote.remote({"x": x, "sleep": pause}) for x in range(100)])
begun = time.perf_counter()
results = ray.get([remote.remote({"x": x, "sleep": pause}) for x in range(count)])
assert results == list(range(count))
print(count / (time.perf_counter() - begun))
"""


def evaluate(config: dict[str, float]) -> float:
    """Sleeps for as long as the config says."""
    if config["sleep"]:
        time.sleep(config["sleep"])
    return config["x"]


def plain(address: str, jobs: int, sleep: float) -> float:
    """Evaluations per second of a plain Ray driver."""
    command = [sys.executable, "-c", PLAIN, address, str(jobs), str(sleep)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def forwarded(evaluator: Evaluator, jobs: int, sleep: float) -> float:
    """Evaluations per second through the queue."""
    evaluator.submit([{"x": x, "sleep": sleep} for x in range(100)])
    evaluator.gather("ALL")
    begun = time.perf_counter()
    evaluator.submit([{"x": x, "sleep": sleep} for x in range(jobs)])
    done = evaluator.gather("ALL")
    assert sorted(job.result for job in done) == list(range(jobs))
    return jobs / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds each evaluation sleeps")
    arguments = parser.parse_args()
    cluster = RayCluster()
    ratios = []
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        try:
            options = {"address": cluster.address, "home": home}
            with Evaluator.create(evaluate, "ray", options) as evaluator:
                for _ in range(arguments.repeat):
                    theirs = plain(cluster.address, arguments.jobs, arguments.sleep)
                    ours = forwarded(evaluator, arguments.jobs, arguments.sleep)
                    ratios.append(ours / theirs)
                    print(f"plain Ray {theirs:8,.0f}/s   queue_eval {ours:8,.0f}/s   ratio {ratios[-1]:.2f}")
        finally:
            stop_server(home)
            cluster.close()
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
