"""Celery: one worker with two prefork processes; Redis is broker and result backend.

Acknowledged late, as durability asks. For short tasks the guide advises a high prefetch multiplier.
https://docs.celeryq.dev/en/stable/userguide/optimizing.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, group

from benchmarks import functions
from benchmarks.peers.inside import BROKER, SLOTS, Evaluate, serve, workers

app = Celery("bench", broker=os.environ.get(BROKER), backend=os.environ.get(BROKER))
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=64, broker_connection_retry_on_startup=True)


@app.task(name="bench.no_op")
def no_op(config: dict[str, Any]) -> float:
    return functions.no_op(config)


@contextmanager
def celery() -> Iterator[Evaluate]:
    def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
        sent = group(no_op.s(config) for config in configs).apply_async()
        return list(sent.join_native(interval=0.005))

    command = ("celery", "-A", "benchmarks.peers.celery", "worker", "-c", str(SLOTS), "-l", "warning")
    with workers((*command, "--without-gossip", "--without-mingle")):
        yield evaluate


if __name__ == "__main__":
    settings = "prefork of two, acks_late, prefetch multiplier 64, no gossip, no mingle; group, join_native"
    serve(celery(), "celery", settings)
