"""RQ: two `rq worker` processes, `SimpleWorker` (no fork) or `Worker` (a fork for each job, the default).

The driver enqueues all jobs in one pipeline, and reads each result with a blocking read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from rq import Queue

from benchmarks.peers.inside import BROKER, SLOTS, Evaluate, serve, workers


@contextmanager
def rq(worker_class: str) -> Iterator[Evaluate]:
    url = os.environ[BROKER]
    queue = Queue("bench", connection=redis.Redis.from_url(url))

    def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
        data = [Queue.prepare_data("benchmarks.functions.no_op", args=(config,)) for config in configs]
        jobs = queue.enqueue_many(data)
        results = [job.latest_result(timeout=60) for job in jobs]
        return [result.return_value for result in results if result is not None]

    command = ("rq", "worker", "--quiet", "--path", str(Path.cwd()), "-u", url, "bench")
    with workers(*[(*command, "--worker-class", worker_class)] * SLOTS):
        yield evaluate


if __name__ == "__main__":
    settings = f"two {sys.argv[1]}, --quiet; enqueue_many, latest_result(timeout)"
    serve(rq(sys.argv[1]), "rq", settings)
