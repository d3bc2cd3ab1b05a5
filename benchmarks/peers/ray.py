"""Ray: a cluster of this machine alone, of two CPUs. Nothing is durable."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray as library

from benchmarks.functions import no_op
from benchmarks.peers.inside import SLOTS, Evaluate, serve


@contextmanager
def ray() -> Iterator[Evaluate]:
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a token of this user's is none of our business
    library.init(
        num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000,
        _temp_dir=tempfile.gettempdir(),
    )  # fmt: skip
    remote = library.remote(num_cpus=1)(no_op)

    def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
        return list(library.get([remote.remote(config) for config in configs]))

    try:
        yield evaluate
    finally:
        library.shutdown()


if __name__ == "__main__":
    serve(ray(), "ray", "two CPUs, num_cpus=1 for each, no dashboard; get of all")
