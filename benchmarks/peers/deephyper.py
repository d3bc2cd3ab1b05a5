"""DeepHyper's evaluator of threads or processes. Nothing is durable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deephyper.evaluator import Evaluator

from benchmarks.peers.inside import SLOTS, Evaluate, serve


def run(job: Any) -> float:
    """Up to 0.3 it is given the config; later a job that has `parameters`."""
    return float(job["x"])


@contextmanager
def deephyper(method: str) -> Iterator[Evaluate]:
    def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
        evaluator.submit(configs)
        jobs = evaluator.gather("ALL")
        return [job.output if hasattr(job, "output") else job.result for job in jobs]

    evaluator = Evaluator.create(run, method=method, method_kwargs={"num_workers": SLOTS})
    yield evaluate


if __name__ == "__main__":
    serve(deephyper(sys.argv[1]), "deephyper", f"method {sys.argv[1]}, num_workers 2; submit, gather ALL")
