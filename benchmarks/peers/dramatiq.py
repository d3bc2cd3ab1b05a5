"""Dramatiq: two worker processes of one thread; Redis is broker and result backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq as library
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import functions
from benchmarks.peers.inside import BROKER, SLOTS, Evaluate, serve, workers

broker = RedisBroker(url=os.environ[BROKER])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ[BROKER])))
library.set_broker(broker)


@library.actor(actor_name="no_op", store_results=True)
def no_op(config: dict[str, Any]) -> float:
    return functions.no_op(config)


@contextmanager
def dramatiq() -> Iterator[Evaluate]:
    def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
        sent = library.group([no_op.message(config) for config in configs]).run()
        return list(sent.get_results(block=True, timeout=60_000))

    with workers(("dramatiq", "benchmarks.peers.dramatiq", "-p", str(SLOTS), "-t", "1")):
        yield evaluate


if __name__ == "__main__":
    serve(dramatiq(), "dramatiq", "two processes of one thread; group, get_results(block=True)")
