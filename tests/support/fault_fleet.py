"""Real workers, drivers and servers as processes of their own, and what can be seen of them from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from queue_eval import Evaluator
from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import live_workers
from queue_eval.chaos.processes import send
from queue_eval.errors import GiveUp, QueueEvalError
from queue_eval.model.states import State
from queue_eval.server.lifecycle import server_state
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.executor_harness import is_running
from tests.support.waiting import wait_until
from workers.signals import ONE_S

ROOT = Path(__file__).resolve().parents[2]
WORK = "tests.support.fault_functions:work"


class Fleet:
    """Starts workers for one home; `close` ends them all, however the test went."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder
        self.log = folder / "side.log"
        self.started: list[subprocess.Popen[str]] = []
        self._links: list[Link] = []

    def worker(
        self, *arguments: str, slots: int = 1, lease: str = "2s", home: Path | None = None,
        within: Sequence[str] = (), **environment: str,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """`within`: the words of a program that becomes the worker."""
        command = ["worker", "-n", str(slots), "--lease", lease, "--home", str(home or self.home), *arguments]
        log = (self.folder / f"worker-{len(self.started)}.log").open("w")
        with log:
            return self._start(command, log, environment, within)

    def script(self, path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A driver: it runs in its own folder."""
        command = [sys.executable, path.name, *arguments]
        return self._popen(command, subprocess.PIPE, subprocess.STDOUT, environment, path.parent)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "queue_eval", *arguments, "--home", str(self.home)]
        return subprocess.run(
            command, cwd=self.folder, env=_environment({}), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def output_of(self, worker: subprocess.Popen[str]) -> str:
        return (self.folder / f"worker-{self.started.index(worker)}.log").read_text()

    def queue(self, campaign: str) -> CampaignCommands:
        access = find_access(None, self.home)
        assert access is not None
        self._links.append(Link(access, name="test"))
        return CampaignCommands.attach(self._links[-1], campaign)[0]

    def driver(self, campaign: str, function: Any = WORK, method: str = "process", **more: Any) -> Evaluator:
        """A driver in this process, which starts no workers."""
        keywords = {"home": self.home, "campaign": campaign, "local_workers": False, "retry_delay": 0.01}
        evaluator: Evaluator = Evaluator.create(function, method, keywords | more)
        return evaluator

    def config(self, x: Any = 0, **more: Any) -> dict[str, Any]:
        return {"x": x, "log": str(self.log)} | more

    def gated(self, x: Any = 0, gate: str = "gate", **more: Any) -> dict[str, Any]:
        """A config whose job runs until `open_gate`."""
        return self.config(x, gate=str(self.folder / gate), **more)

    def open_gate(self, gate: str = "gate") -> None:
        (self.folder / gate).touch()

    def lines(self) -> list[list[str]]:
        if not self.log.exists():
            return []
        return [line.split() for line in self.log.read_text().splitlines()]

    def begun(self) -> Counter[int]:
        """How often each job's execution began."""
        return Counter(int(line[1]) for line in self.lines() if line[0] == "start")

    def finished(self) -> Counter[int]:
        return Counter(int(line[1]) for line in self.lines() if line[0] == "end")

    def wait_begun(self, *jobs: int) -> None:
        wait_until(lambda: set(jobs) <= self.begun().keys())

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._forget_workers()
        for link in self._links:
            link.close()

    def _forget_workers(self) -> None:
        """The card of a killed worker stays for two leases: drivers of other tests would count it."""
        access = find_access(None, self.home)
        if access is None or server_state(self.home).state != "running":
            return
        self._links.append(Link(access, name="test", on_wait=_give_up))
        client = self._links[-1].client
        pids = {process.pid for process in self.started}
        with suppress(GiveUp, QueueEvalError):  # it is away, or what it holds is damaged
            for worker in live_workers(self._links[-1]):
                if worker.card.pid in pids:
                    client.zrem(keys.WORKERS, worker.card.name)
                    client.delete(keys.worker_key(worker.card.name))

    def _start(
        self, command: list[str], log: Any, environment: dict[str, str], within: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        return self._popen(
            [*within, sys.executable, "-P", "-m", "queue_eval", *command], log, log, environment, self.folder
        )

    def _popen(
        self, command: list[str], output: Any, errors: Any, environment: dict[str, str], folder: Path
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(environment), stdout=output, stderr=errors, text=True
        )
        self.started.append(process)
        return process


def _give_up(away_s: float) -> None:
    raise GiveUp("the server of the test is away")


def _environment(more: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


def wait_state(queue: CampaignCommands, state: State, count: int) -> None:
    wait_until(lambda: queue.snapshot().counts[state] == count)


def wait_registered(fleet: Fleet, *names: str) -> None:
    """Until these workers serve."""

    def live() -> set[str]:
        reply = fleet.cli("workers", "--json")
        return {worker["name"] for worker in json.loads(reply.stdout or "[]")}

    wait_until(lambda: set(names) <= live())


def stop_now(worker: subprocess.Popen[str], fleet: Fleet, number: int = signal.SIGTERM) -> None:
    """Have a worker give back what runs: a drain, and a second signal when it is not taken for the first."""
    worker.send_signal(number)
    wait_until(lambda: "draining" in fleet.output_of(worker))
    told_at = time.monotonic()
    wait_until(lambda: time.monotonic() > told_at + ONE_S)
    worker.send_signal(number)


def everyone(worker: subprocess.Popen[str]) -> list[int]:
    """The worker and all that it and its children have started."""
    return [worker.pid, *(process.pid for process in psutil.Process(worker.pid).children(recursive=True))]


def signal_all(worker: subprocess.Popen[str], number: int, *, worker_last: bool = False) -> None:
    """As whoever stops a job does: every process, wherever it stands."""
    pids = everyone(worker)
    own = {worker.pid, *(child.pid for child in psutil.Process(worker.pid).children())}
    for pid in reversed(pids) if worker_last else pids:
        # Of what its children have started some may have ended by itself: Ray's processes come and go.
        assert send(pid, number) or pid not in own


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM, timeout_s: float = 20) -> int:
    process.send_signal(number)
    return process.wait(timeout_s)


def kill_and_count(queue: CampaignCommands, name: str, worker: subprocess.Popen[str]) -> int:
    """Kill a worker, and count the jobs that it held: nothing else can run again because of it."""
    worker.send_signal(signal.SIGSTOP)
    held = sum(one.running for one in queue.snapshot().workers if one.worker == name)
    end(worker, signal.SIGKILL)
    return held


def kill_server(fleet: Fleet) -> None:
    pid = server_state(fleet.home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))


def check_all_recorded(queue: CampaignCommands, count: int, state: State = State.SUCCEEDED) -> None:
    """Each of `count` jobs has exactly one entry in the result stream, and nothing is anywhere else."""
    snapshot = queue.snapshot()
    assert snapshot.conserved
    assert snapshot.counts[state] == count == snapshot.last_id
    entries = queue.read_after("0-0")
    while more := queue.read_after(entries[-1].entry):
        entries += more
    assert sorted(entry.id for entry in entries) == list(range(1, count + 1))
