"""What a finished small job takes of the memory of other servers than the bundled one.

    python -m benchmarks.server_memory                                   # the bundled one
    python -m benchmarks.server_memory --jobs 200000 /usr/bin/redis-server …

Each program is started on a port of loopback with its log on. A worker of two slots runs no-ops of three
fields (those of `python -m benchmarks --only memory`) in threads; the driver gathers all. The figure is the
growth of `used_memory`, divided by the jobs.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from benchmarks.functions import no_op, small_configs
from queue_eval import Evaluator
from queue_eval.server.programs import server_binary

BATCH = 1000


def measure(program: Path, jobs: int) -> tuple[str, float]:
    """The version of the server, and bytes for each finished job."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        held.close()
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        worker: subprocess.Popen[bytes] | None = None
        client = redis.Redis(port=port, protocol=2)
        try:
            _await(client)
            url = f"redis://127.0.0.1:{port}"
            worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "queue_eval", "worker", "-n", "2", "--url", url],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
                env=os.environ | {"PYTHONPATH": os.getcwd(), "QUEUE_EVAL_HOME": folder},  # noqa: PTH109
            )  # fmt: skip
            options = {"url": url, "home": folder, "campaign": "memory", "keep_jobs": False}
            with Evaluator.create(no_op, "thread", options) as evaluator:
                _run(evaluator, 0, BATCH)
                before = client.info("memory")["used_memory"]
                for first in range(BATCH, BATCH + jobs, BATCH):
                    _run(evaluator, first, BATCH)
                grown = (client.info("memory")["used_memory"] - before) / jobs
            said = client.info("server")
            name = f"{said.get('server_name', 'redis')} {said.get('valkey_version', said['redis_version'])}"
            return name, grown
        finally:
            for process in (worker, server):
                if process is not None:
                    process.terminate()
                    process.wait()
            client.close()


def _run(evaluator: Evaluator, first: int, count: int) -> None:
    evaluator.submit(small_configs(first, count))
    evaluator.gather("ALL")


def _await(client: redis.Redis) -> None:
    for _ in range(200):
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("programs", nargs="*", type=Path, metavar="PROGRAM")
    parser.add_argument("--jobs", type=int, default=100_000)
    chosen = parser.parse_args()
    os.environ.setdefault("QUEUE_EVAL_KEY", secrets.token_hex(16))
    for program in chosen.programs or [server_binary()]:
        name, grown = measure(program, chosen.jobs)
        print(f"{name:<16} {grown:4.0f} bytes for each finished job, at {chosen.jobs:,} jobs", flush=True)


if __name__ == "__main__":
    main()
