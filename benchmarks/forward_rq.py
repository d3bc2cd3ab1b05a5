"""What forwarding to RQ costs: evaluations through queue_eval beside the same jobs of a plain RQ driver.

Both run on the same two stock RQ workers, in turn, in one run; the ratio is what counts. The plain driver
enqueues all jobs in one pipeline, and waits for each result by a blocking read. Its user code runs in the RQ
worker, or in its work horse; ours runs in a process forked for it, which user code may kill.

    python -m benchmarks.forward_rq [--jobs 500] [--repeat 3] [--sleep 0.0]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from rq import Queue

from queue_eval import Evaluator
from queue_eval.server.lifecycle import stop_server
from tests.support.rq_fleet import RqFleet, RqRedis

KINDS = ("rq.SimpleWorker", "rq.Worker")
FUNCTION = "benchmarks.functions:sleep"


def plain(fleet: RqFleet, jobs: int, sleep_s: float) -> float:
    """Evaluations per second of a plain RQ driver."""
    queue = Queue(fleet.queue, connection=redis.Redis.from_url(fleet.url))
    begun = time.perf_counter()
    queued = queue.enqueue_many([
        Queue.prepare_data("benchmarks.functions.sleep", args=({"x": x, "sleep": sleep_s},))
        for x in range(jobs)
    ])  # fmt: skip
    ended = [job.latest_result(timeout=60) for job in queued]
    results = [result.return_value for result in ended if result is not None]
    assert results == list(range(jobs))
    return jobs / (time.perf_counter() - begun)


def forwarded(evaluator: Evaluator, jobs: int, sleep_s: float) -> float:
    """Evaluations per second through the queue."""
    begun = time.perf_counter()
    evaluator.submit([{"x": x, "sleep": sleep_s} for x in range(jobs)])
    done = evaluator.gather("ALL")
    assert sorted(job.result for job in done) == list(range(jobs))
    return jobs / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds each evaluation sleeps")
    arguments = parser.parse_args()
    # The RQ workers import the function of the plain driver.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    server = RqRedis(durable=True)
    try:
        for kind in KINDS:
            measure(server, kind, arguments)
    finally:
        server.close()


def measure(server: RqRedis, kind: str, arguments: Any) -> None:
    fleet = RqFleet(server.url, worker_class=kind)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        try:
            options = {"home": home, "num_workers": 8, "rq_url": fleet.url, "rq_queue": fleet.queue}
            with Evaluator.create(FUNCTION, "rq", options) as evaluator:
                plain(fleet, 20, 0.0)
                forwarded(evaluator, 20, 0.0)
                for _ in range(arguments.repeat):
                    theirs = plain(fleet, arguments.jobs, arguments.sleep)
                    ours = forwarded(evaluator, arguments.jobs, arguments.sleep)
                    ratios.append(ours / theirs)
                    print(f"{kind:15} plain {theirs:6.0f}/s   queue_eval {ours:6.0f}/s   {ratios[-1]:.2f}")
        finally:
            stop_server(home)
            fleet.close()
    print(f"{kind:15} median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
