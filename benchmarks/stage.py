"""Where the benchmarks play: a server, workers and drivers of their own, all gone afterwards."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.functions import no_op, small_configs
from queue_eval import Evaluator, Job
from queue_eval.campaign.keys import worker_key
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import read_access
from queue_eval.transport.link import Link

SLOTS = 2

BATCH = 500
"""Configs per submit, ours and those of the limits alike."""

_START_S = 60.0
_STOP_S = 10.0


@dataclass(frozen=True)
class Worker:
    """A worker process that has registered itself."""

    name: str
    process: psutil.Process
    start_s: float
    """From the start of its process to its registration."""

    def family(self) -> list[psutil.Process]:
        """It and its children: all that a worker costs."""
        return [self.process, *self.process.children(recursive=True)]


class Stage:
    """An embedded server with an append-only log in a temporary home; see `open_stage`."""

    def __init__(self, home: Path, link: Link) -> None:
        self.home = home
        self.link = link
        self._names = itertools.count(1)

    @contextmanager
    def worker(
        self, *, campaign: str | None = None, slots: int = SLOTS, more: Sequence[str] = ()
    ) -> Iterator[Worker]:
        """A worker process, for one campaign or for all, with `more` arguments; killed at the end."""
        name = f"bench-{next(self._names)}"
        command = [
            sys.executable, "-P", "-m", "queue_eval", "worker", "--slots", str(slots), "--name", name,
            "--home", str(self.home), "--idle-timeout", "10m", *more,
        ]  # fmt: skip
        if campaign is not None:
            command += ["--campaign", campaign]
        log = self.home / f"{name}.log"
        began = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=_with_bytecode(),
            )  # fmt: skip
        try:
            while not self.link.client.exists(worker_key(name)):
                if process.poll() is not None or time.perf_counter() - began > _START_S:
                    raise RuntimeError(f"the worker did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.001)
            yield Worker(name, psutil.Process(process.pid), time.perf_counter() - began)
        finally:
            try:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
            finally:
                process.kill()  # its children die with it
                process.wait()

    @contextmanager
    def driver(self, method: str, **options: Any) -> Iterator[Driver]:
        """A driver of a new campaign of no-ops, with a worker of its own that is warm."""
        with (
            self.evaluator(no_op, method, **options) as evaluator,
            self.worker(campaign=evaluator.campaign) as worker,
        ):
            driver = Driver(evaluator, worker)
            driver.run(4 if method == "subprocess" else 500, batch=BATCH)
            yield driver

    def evaluator(self, function: Callable[..., Any], method: str, **options: Any) -> Evaluator:
        """A driver of a new campaign that nobody serves."""
        campaign = f"{method}-{next(self._names)}"
        options = {"campaign": campaign, "home": self.home, "local_workers": False, **options}
        return Evaluator.create(function, method, {"num_workers": SLOTS, **options})

    def used_memory(self) -> int:
        return int(self.link.client.info("memory")["used_memory"])

    def script_us(self) -> int:
        """Microseconds that the server has spent in scripts so far."""
        return int(self.link.client.info("commandstats")["cmdstat_evalsha"]["usec"])

    def server_process(self) -> psutil.Process:
        return psutil.Process(int(self.link.client.info("server")["process_id"]))


class Driver:
    """An evaluator and the worker that serves it."""

    def __init__(self, evaluator: Evaluator, worker: Worker) -> None:
        self.evaluator = evaluator
        self.worker = worker
        self.submitted = 0

    def run(self, jobs: int, *, batch: int) -> float:
        """Submit so many new configs in batches, gather them all; the seconds it took."""
        configs = small_configs(self.submitted, jobs)
        self.submitted += jobs
        began = time.perf_counter()
        for at in range(0, jobs, batch):
            self.evaluator.submit(configs[at : at + batch])
        gathered = self.evaluator.gather("ALL")
        took_s = time.perf_counter() - began
        check(gathered, jobs)
        return took_s

    def cpu_of(self, configs: list[dict[str, Any]], *, batch: int) -> tuple[float, float]:
        """Seconds of this process's CPU for submitting the configs, and for gathering the jobs."""
        times = [time.process_time()]
        for at in range(0, len(configs), batch):
            self.evaluator.submit(configs[at : at + batch])
        times.append(time.process_time())
        gathered = self.evaluator.gather("ALL")
        times.append(time.process_time())
        check(gathered, len(configs))
        return times[1] - times[0], times[2] - times[1]


def check(gathered: list[Job], jobs: int) -> None:
    """A benchmark of what does not work is worth nothing."""
    if len(gathered) != jobs or any(job.result != job.config["x"] for job in gathered):
        raise RuntimeError(f"{len(gathered)} of {jobs} jobs came back, or with wrong results")


def _with_bytecode() -> dict[str, str]:
    """The environment; modules may be kept compiled, as they are where a package was installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def open_stage(fsync: str = "always") -> Iterator[Stage]:
    """A stage on which nothing has happened. Whatever plays on it is gone when the block is left."""
    with ExitStack() as stack:
        # A short path: that of the server's socket is limited.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="qe-bench-", ignore_cleanup_errors=True)
        )
        home = Path(folder) / "home"
        stack.callback(stop_server, home)
        stack.callback(stop_server, home)  # twice: the first may be interrupted
        start_server(home, fsync=fsync)
        access = read_access(home)
        assert access is not None
        link = Link(access, name="benchmark")
        stack.callback(link.close)
        yield Stage(home, link)
