"""Dask distributed: a local cluster of two processes of one thread. Nothing is durable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.functions import no_op
from benchmarks.peers.inside import SLOTS, Evaluate, serve


@contextmanager
def dask() -> Iterator[Evaluate]:
    with (
        LocalCluster(
            n_workers=SLOTS, threads_per_worker=1, dashboard_address=None,
            local_directory=tempfile.gettempdir(),
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip

        def evaluate(configs: list[dict[str, Any]]) -> list[Any]:
            return list(client.gather(client.map(no_op, configs, pure=False)))

        yield evaluate


if __name__ == "__main__":
    serve(dask(), "distributed", "two processes of one thread, no dashboard; map, gather")
