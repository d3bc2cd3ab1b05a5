"""Other systems that evaluate the same no-ops with two workers, each in a process of its own.

A peer's module imports only the standard library, the peer, and what is beside it: it may run in an
environment that has no queue_eval, or under another Python.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    what: str
    module: str
    package: str
    """The package without which it cannot run; empty: the standard library suffices."""
    durable: bool = False
    """Submissions and results lie on the broker, a server with an append-only log."""
    arguments: tuple[str, ...] = ()


PEERS = {
    "pool": Peer("ProcessPoolExecutor, a future for each", "pool", ""),
    "pool-map": Peer("ProcessPoolExecutor.map, chunks of 100", "pool", "", arguments=("100",)),
    "rq-simple": Peer("RQ, SimpleWorker", "rq", "rq", True, ("rq.SimpleWorker",)),
    "rq": Peer("RQ, Worker", "rq", "rq", True, ("rq.Worker",)),
    "celery": Peer("Celery", "celery", "celery", True),
    "dramatiq": Peer("Dramatiq", "dramatiq", "dramatiq", True),
    "arq": Peer("arq", "arq", "arq", True),
    "dask": Peer("Dask distributed", "dask", "distributed"),
    "ray": Peer("Ray", "ray", "ray"),
    "deephyper-thread": Peer("DeepHyper, thread", "deephyper", "deephyper", arguments=("thread",)),
    "deephyper-process": Peer("DeepHyper, process", "deephyper", "deephyper", arguments=("process",)),
}
