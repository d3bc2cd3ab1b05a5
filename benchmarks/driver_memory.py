"""What a driver takes of memory for the jobs it has gathered, kept and not kept.

    python -m benchmarks.driver_memory [--jobs 100000 1000000]

A driver submits and gathers in windows of 2,000; this process settles what there is, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import CampaignNotFoundError
from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link

WINDOW = 2000
CASES: dict[str, dict[str, object]] = {
    "kept": {},
    "not kept, with reuse": {"keep_jobs": False},
    "not kept, without reuse": {"keep_jobs": False, "reuse": False},
}

DRIVER = """
import json, sys, psutil
from queue_eval import Evaluator
options, jobs, window, folder = json.loads(sys.argv[1])
options |= {"local_workers": False}
with Evaluator.create("benchmarks.functions:no_op", "process", options) as evaluator:
    rss, numbers = psutil.Process().memory_info, iter(range(jobs))
    for first in range(0, jobs, window):
        evaluator.submit([{"x": x, "rate": 0.001 * x, "kind": "adam"} for x in range(first, first + window)])
        evaluator.gather("ALL")
        if first == 0:
            before = rss().rss
    after = rss().rss
    evaluator.dump_evals(log_dir=folder)
    with open(folder + "/results.csv") as file:
        lines = sum(1 for _ in file)
    print(json.dumps([before, after, rss().rss, lines, evaluator.num_gathered]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[100_000, 1_000_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        start_server(home, keep=True)
        try:
            print(f"{'gathered':>10}  {'':24}  after 2,000  at the end  growth per job  after dump_evals")
            for jobs in asked.jobs:
                for name, more in CASES.items():
                    measure(home, Path(folder), jobs, name, more)
        finally:
            stop_server(home)


def measure(home: Path, folder: Path, jobs: int, name: str, more: dict[str, object]) -> None:
    campaign = f"c{jobs}-{len(name)}"
    ended = threading.Event()
    worker = threading.Thread(target=serve, args=(home, campaign, ended))
    worker.start()
    options = {"home": str(home), "campaign": campaign, **more}
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps([options, jobs, WINDOW, str(folder)])],
            cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    finally:
        ended.set()
        worker.join()
    before, after, dumped, lines, gathered = json.loads(done.stdout)
    if lines != jobs + 1 or gathered != jobs:
        raise RuntimeError(f"{lines - 1} rows and {gathered} gathered of {jobs} jobs")
    per_job = (after - before) / (jobs - WINDOW)
    print(
        f"{jobs:>10,}  {name:24}  {before / 1e6:8.1f} MB  {after / 1e6:7.1f} MB  {per_job:8.1f} bytes"
        f"  {dumped / 1e6:13.1f} MB"
    )


def serve(home: Path, campaign: str, ended: threading.Event) -> None:
    """Lease and settle at once, until the driver has ended."""
    access = find_access(None, home)
    if access is None:
        raise RuntimeError("the server has no access file")
    link = Link(access, name="driver-memory")
    queue = None
    settlements: list[Settlement] = []
    request = 0
    while not ended.is_set():
        if queue is None:
            try:
                queue = CampaignCommands.attach(link, campaign)[0]
            except CampaignNotFoundError:
                ended.wait(0.01)
                continue
        request += 1
        reply = queue.settle(
            "box", settlements, lease_ms=60_000, request=f"a-{request}", room=500, prefetch=0,
            now=time.monotonic(),
        )  # fmt: skip
        settlements = [
            Settlement(lease.id, lease.attempt, Outcome.OK, 1.5, time.monotonic(), "abc", b"0.25")
            for lease in reply.leases
        ]
        if not settlements:
            ended.wait(0.001)
    link.close()


if __name__ == "__main__":
    main()
