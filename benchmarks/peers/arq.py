"""arq: two worker processes, whose jobs are coroutines; Redis is broker and keeps the results.

It polls, by default twice a second: here every 5 ms on both sides.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks import functions
from benchmarks.peers.inside import BROKER, SLOTS, Evaluate, serve, workers

POLL_S = 0.005


async def no_op(_context: dict[str, Any], config: dict[str, Any]) -> float:
    return functions.no_op(config)


class WorkerSettings:
    functions: ClassVar[list[Any]] = [no_op]
    redis_settings = RedisSettings.from_dsn(os.environ.get(BROKER, "redis://"))
    poll_delay = POLL_S
    handle_signals = True


@contextmanager
def arq() -> Iterator[Evaluate]:
    with asyncio.Runner() as runner:
        pool = runner.run(create_pool(WorkerSettings.redis_settings))

        async def all_of(configs: list[dict[str, Any]]) -> list[Any]:
            jobs = [await pool.enqueue_job("no_op", config) for config in configs]
            return [await job.result(timeout=60, poll_delay=POLL_S) for job in jobs if job is not None]

        def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
            return runner.run(all_of(configs))

        with workers(*[("arq", "benchmarks.peers.arq.WorkerSettings")] * SLOTS):
            yield evaluate
        runner.run(pool.aclose())


if __name__ == "__main__":
    serve(arq(), "arq", "two processes, max_jobs 10, polling every 5 ms; enqueue_job, result")
