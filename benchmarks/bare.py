"""The limit: the same configs and results through two streams of the same server, and nothing else.

::

    driver ── XADD configs ──▶ bare:configs ── XREAD ──▶ consumer ── XADD results ──▶ bare:results ──▶ driver

No ids, no leases, no priorities, no child process: a job is lost when the consumer dies. What is ours costs
more; the benchmarks print how much more. Both sides use the connections that queue_eval uses.

Run as ``python -m benchmarks.bare HOME``, this is the consumer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.functions import sized
from benchmarks.stage import BATCH
from queue_eval.transport.access import read_access
from queue_eval.transport.link import Link

ROOT = Path(__file__).resolve().parents[1]

CONFIGS, RESULTS = "bare:configs", "bare:results"

_CONSUMED_AT_ONCE = 512
"""As many as a worker of ours leases and settles in one call at most."""

_READ_AT_ONCE = 2000
"""As many as a driver of ours reads in one call at most."""


def _connect(home: Path) -> Any:
    access = read_access(home)
    assert access is not None
    return Link(access, name="bare").dedicated(30.0)


class BareLoop:
    """The driver's side, with a consumer process of its own. Leave the `with` block to end it."""

    def __init__(self, home: Path) -> None:
        self._client = _connect(home)
        self._cursor = "0-0"
        self._consumer = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare", str(home)], cwd=ROOT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> BareLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.kill()
        self._consumer.wait()
        self._client.close()

    def submit(self, configs: list[dict[str, Any]]) -> None:
        """Send a batch; returns when the server has acknowledged it, which means that it is on disk."""
        pipeline = self._client.pipeline(transaction=False)
        for config in configs:
            pipeline.xadd(CONFIGS, {"c": json.dumps(config)})
        pipeline.execute()

    def gather(self, count: int) -> list[Any]:
        """The next `count` results."""
        results: list[Any] = []
        while len(results) < count:
            reply = self._client.xread({RESULTS: self._cursor}, count=_READ_AT_ONCE, block=20_000)
            if not reply:
                raise TimeoutError("the bare consumer does not answer")
            entries = reply[0][1]
            self._cursor = entries[-1][0]
            results += [json.loads(fields[b"r"]) for _, fields in entries]
        return results

    def run(self, configs: list[dict[str, Any]]) -> float:
        """Submit them in batches, gather all; the seconds it took."""
        began = time.perf_counter()
        for at in range(0, len(configs), BATCH):
            self.submit(configs[at : at + BATCH])
        results = self.gather(len(configs))
        took_s = time.perf_counter() - began
        if len(results) != len(configs):
            raise RuntimeError(f"{len(results)} of {len(configs)} results came back through the bare loop")
        self._forget()
        return took_s

    def _forget(self) -> None:
        """Free the server's memory of what is done."""
        for stream in (CONFIGS, RESULTS):
            self._client.xtrim(stream, maxlen=0, approximate=False)


def consume(home: Path) -> None:
    parent = os.getppid()
    client = _connect(home)
    cursor = "0-0"
    while os.getppid() == parent:
        reply = client.xread({CONFIGS: cursor}, count=_CONSUMED_AT_ONCE, block=1000)
        if not reply:
            continue
        entries = reply[0][1]
        cursor = entries[-1][0]
        pipeline = client.pipeline(transaction=False)
        for _, fields in entries:
            pipeline.xadd(RESULTS, {"r": json.dumps(sized(json.loads(fields[b"c"])))})
        pipeline.execute()


if __name__ == "__main__":
    consume(Path(sys.argv[1]))
