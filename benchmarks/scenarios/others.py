"""What other campaigns on a server cost: an idle worker beside those that are over, one job beside others."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row, ratio
from benchmarks.functions import no_op
from benchmarks.machine import cpu_s
from benchmarks.stage import SLOTS, Driver, Stage, Worker, open_stage
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import RESTING, Keys, worker_key
from queue_eval.model.moves import Settlement, Submission
from queue_eval.model.states import Outcome

TITLE = "beside other campaigns, a worker for all of them"

OVER = (1, 1000)
BESIDE = (1, 10, 100)

_REST_S = 120.0
"""Within so long all must be known to be over: a minute, and some heartbeats."""


_OPTIONS = '{"path":[],"kwargs":{},"time_limit":null,"forward":null}'


def measure(extent: Extent, progress: Progress) -> Found:
    found = Found()
    idle: dict[str, list[float]] = {}
    for number in range(max(extent.rounds // 2, 1)):
        for count in OVER:
            progress(f"idle beside {count:,} finished campaigns, round {number + 1}")
            for name, value in _idle_beside(count, max(extent.idle_s, 30.0)).items():
                idle.setdefault(f"{name} {count}", []).append(value)
    for name, what, unit in (
        ("commands", "commands that the server executes, also in scripts", "/s"),
        ("cpu", "CPU of the worker and its children", "% of a core"),
        ("drain", "from SIGTERM to its end", "s"),
    ):
        few, many = (idle[f"{name} {count}"] for count in OVER)
        for count, values in zip(OVER, (few, many), strict=True):
            label = f"beside {count:,} finished: {what}"
            found.rows.append(Row(f"{name} {count}", label, statistics.median(values), unit))
        found.rows.append(Row(f"{name} ratio", "  of that", ratio(many, few), "times"))
    trips: dict[str, list[float]] = {}
    for kind in ("finished", "open"):
        for count in BESIDE:
            progress(f"round trips beside {count} {kind} campaigns")
            alone, beside = _trips(count, kind, extent)
            median = statistics.median(beside)
            name = f"{kind} {count}"
            trips[f"{name} alone"], trips[name] = alone, beside
            label = f"one job, beside {count} {kind}, median"
            times = f"{median / statistics.median(alone):.2f} times the one alone"
            found.rows.append(Row(name, label, median, "ms", times))
            found.rows.append(Row(f"{name} ratio", "  of alone", median / statistics.median(alone), "times"))
    found.rounds = idle | trips
    return found


def _idle_beside(count: int, idle_s: float) -> dict[str, float]:
    with open_stage() as stage:
        for number in range(count):
            _finish_one(stage, f"over-{number}")
        with stage.worker() as worker:
            _wait_resting(stage, count)
            while _attended(stage, worker, "over", count):
                time.sleep(0.1)
            time.sleep(2.0)  # its listeners settle down
            cpu, commands, began = _cpu(worker), _commands(stage), time.perf_counter()
            time.sleep(idle_s)
            took_s = time.perf_counter() - began
            found = {
                # Less the one command that counts them.
                "commands": (_commands(stage) - commands - 1) / took_s,
                "cpu": 100 * (_cpu(worker) - cpu) / took_s,
            }
            began = time.perf_counter()
            worker.process.send_signal(signal.SIGTERM)
            while stage.link.client.exists(worker_key(worker.name)):
                time.sleep(0.001)
            return found | {"drain": time.perf_counter() - began}


def _trips(count: int, kind: str, extent: Extent) -> tuple[list[float], list[float]]:
    """Milliseconds of single jobs without others, and beside them."""
    with open_stage() as stage, _driver(stage) as driver:
        alone = [1000 * driver.run(1, batch=1) for _ in range(extent.trips)]
        for number in range(count):
            queue = _open(stage, f"{kind}-{number}")
            _add(queue, delay_ms=10**9 if kind == "open" else 0)
            while kind == "finished" and queue.snapshot().outstanding:
                time.sleep(0.001)
        while len(_attended(stage, driver.worker, kind, count)) < count:
            time.sleep(0.1)
        return alone, [1000 * driver.run(1, batch=1) for _ in range(extent.trips)]


@contextmanager
def _driver(stage: Stage) -> Iterator[Driver]:
    with ExitStack() as stack:
        evaluator = stack.enter_context(stage.evaluator(no_op, "thread"))
        driver = Driver(evaluator, stack.enter_context(stage.worker()))
        driver.run(500, batch=500)
        yield driver


def _attended(stage: Stage, worker: Worker, kind: str, count: int) -> list[str]:
    """Which of these campaigns the worker serves."""
    names = [f"{kind}-{number}" for number in range(count)]
    return [n for n in names if stage.link.client.zscore(Keys(n).column("workers"), worker.name) is not None]


def _finish_one(stage: Stage, name: str) -> None:
    """A campaign of one job that succeeded."""
    queue = _open(stage, name)
    _add(queue)
    (lease,) = queue.settle(
        "filler", [], lease_ms=60_000, request="f-1", room=1, prefetch=0, now=time.monotonic()
    ).leases
    ended = Settlement(
        lease.id, lease.attempt, Outcome.OK, 1.0, time.monotonic(), "", b"1", b"", lease.request, lease.digest
    )
    queue.settle("filler", [ended], lease_ms=0, request="", room=0, prefetch=0, now=time.monotonic())
    queue.release("filler", [], leave=True)


def _open(stage: Stage, name: str) -> CampaignCommands:
    fields: dict[str, str | bytes | int | float] = {
        "function": "benchmarks.functions:no_op", "method": "thread", "source": "", "options": _OPTIONS,
        "max_attempts": 1, "max_losses": 3, "retry_first_ms": 1, "retry_factor": 1, "retry_max_ms": 1,
        "num_workers": SLOTS, "queue": "default", "payload": b"", "signature": "",
    }  # fmt: skip
    return CampaignCommands.open(stage.link, name, fields, accept_change=False)[0]


def _add(queue: CampaignCommands, delay_ms: int = 0) -> None:
    queue.enqueue("filler", 1, [Submission('{"x":1}', b"x")], reuse=False, delay_ms=delay_ms)


def _wait_resting(stage: Stage, count: int) -> None:
    began = time.perf_counter()
    while stage.link.client.zcard(RESTING) < count:
        if time.perf_counter() - began > _REST_S:
            raise RuntimeError(f"of {count} finished campaigns {stage.link.client.zcard(RESTING)} rest")
        time.sleep(0.5)


def _cpu(worker: Worker) -> float:
    return sum(map(cpu_s, worker.family()))


def _commands(stage: Stage) -> int:
    return int(stage.link.client.info("stats")["total_commands_processed"])
