"""A peer's side of the pipe: asked for so many jobs, or single trips, it says how long they took.

A line of JSON each way. What the peer's own libraries print goes to standard error, which is the log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.functions import small_configs

SLOTS = 2

BROKER = "QE_BENCH_BROKER"
"""Environment variable: the URL of the server that durable peers use."""

Evaluate = Callable[[list[dict[str, Any]]], Sequence[Any]]
"""Evaluates configs; returns when the driver has all results, in any order."""


def serve(peer: AbstractContextManager[Evaluate], package: str, settings: str) -> None:
    """Until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with peer as evaluate:
        of = f"{package} {version(package)}" if package else f"Python {sys.version.split()[0]}"
        print(json.dumps({"version": of, "settings": settings}), file=replies)
        for line in sys.stdin:
            jobs, batch = json.loads(line)
            took_s = [_run(evaluate, at, batch) for at in range(0, jobs, batch)]
            print(json.dumps(took_s), file=replies)


def _run(evaluate: Evaluate, first: int, jobs: int) -> float:
    configs = small_configs(first, jobs)
    began = time.perf_counter()
    results = evaluate(configs)
    took_s = time.perf_counter() - began
    if sorted(results) != [config["x"] for config in configs]:
        raise RuntimeError(f"{len(results)} of {jobs} results came back, or wrong ones")
    return took_s


@contextmanager
def workers(*commands: Sequence[str]) -> Iterator[None]:
    """Programs of this environment that run meanwhile."""
    folder = Path(sys.executable).parent
    started = [
        subprocess.Popen([str(folder / name), *more], stdin=subprocess.DEVNULL, stdout=sys.stderr)
        for name, *more in commands
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
