"""`ProcessPoolExecutor`: a future for each evaluation, or `map` in chunks. Nothing is durable.

Of a chunk nobody sees a result before all of it has been evaluated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks.functions import no_op
from benchmarks.peers.inside import SLOTS, Evaluate, serve


@contextmanager
def pool(chunk: int) -> Iterator[Evaluate]:
    with ProcessPoolExecutor(SLOTS) as executor:

        def one_by_one(configs: list[dict[str, Any]]) -> list[Any]:
            futures = [executor.submit(no_op, config) for config in configs]
            return [future.result() for future in futures]

        def in_chunks(configs: list[dict[str, Any]]) -> list[Any]:
            return list(executor.map(no_op, configs, chunksize=chunk))

        yield in_chunks if chunk else one_by_one


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    serve(pool(size), "", f"two processes, {f'map with chunksize {size}' if size else 'submit'}")
