"""What a job costs, counted rather than timed, so that it is the same on every machine.

When a figure here grows, a change has made every job of everybody dearer: it needs a reason. When it shrinks,
write the new figure down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_eval import Evaluator
from queue_eval.campaign import keys, resting
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import Keys
from queue_eval.model.codec import encode
from queue_eval.model.moves import Lease, Settlement, Submission
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import read_access
from queue_eval.transport.link import Link
from tests.support.fake_worker import FakeWorker
from tests.support.waiting import wait_until
from workers.options import WorkerOptions
from workers.worker import Worker

BATCH = 500
BATCHES = 8

COMMANDS = {
    "enqueue": {"evalsha": 1, "hget": 2, "hmget": 2, "hset": 4, "time": 1, "zadd": 2},
    "lease": {
        "evalsha": 1, "hget": 1, "hlen": 1, "hmget": 2, "hset": 2, "time": 1, "zadd": 2, "zcard": 3,
        "zpopmin": 1,
    },
    "settle": {
        "evalsha": 1, "hdel": 1, "hget": 1, "hlen": 2, "hmget": 2, "hset": 2, "time": 1, "xadd": BATCH,
        "zadd": 2, "zcard": 3,
    },
    "read": {"xrange": 1},
}  # fmt: skip
"""What the server executes for one call with a batch. Only XADD is once for each job."""

BYTES = {"enqueue": (75, 0.1), "lease": (1.2, 80), "settle": (93, 14), "read": (0.1, 104)}
"""To the server and back, for each job of a batch."""

MEMORY = {"waiting": 203, "finished": 245}
"""Bytes of the campaign's keys for each job."""

DRIVER = {"submit": 10, "gather": 1}
"""Commands that are executed for a driver that reuses, for a batch: one script, and one read."""

TOLERANCE = 0.03

OPTIONS = '{"path": [], "kwargs": {}, "time_limit": null, "forward": null}'

_names = itertools.count(1)


class Counter:
    """What the server has executed and moved between two looks."""

    def __init__(self, home: Path) -> None:
        access = read_access(home)
        assert access is not None
        self._link = Link(access, name="counter")
        self._executed: dict[str, int] = {}

    def close(self) -> None:
        self._link.close()

    def start(self) -> None:
        self._link.client.config_resetstat()

    def commands(self) -> dict[str, int]:
        stats = self._link.client.info("commandstats")
        names = {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items()}
        return {name: calls for name, calls in names.items() if "|" not in name and name != "info"}

    def sent_by(self, name: str) -> tuple[int, int, int]:
        """Commands (those in scripts, too), bytes to the server and back, of connections of this name."""
        clients = [c for c in self._link.client.client_list() if c["name"] == name]
        return tuple(sum(int(c[f]) for c in clients) for f in ("tot-cmds", "tot-net-in", "tot-net-out"))

    def campaigns(self) -> int:
        return self._link.client.zcard(keys.CAMPAIGNS)

    def resting(self) -> int:
        return self._link.client.zcard(keys.RESTING)

    def finished(self, campaign: str) -> int:
        return self._link.client.hlen(Keys(campaign).index)

    def memory_of(self, queue: CampaignCommands) -> int:
        sizes = [self._link.client.memory_usage(key, samples=0) for key in queue.keys.columns]
        return sum(size or 0 for size in sizes)


@pytest.fixture
def counter(own_home: Path) -> Iterator[Counter]:
    start_server(own_home, keep=True)
    counter = Counter(own_home)
    yield counter
    counter.close()


@pytest.fixture
def mover(own_home: Path, counter: Counter) -> Iterator[Link]:
    """Who makes the moves; its bytes and commands are those counted."""
    access = read_access(own_home)
    assert access is not None
    link = Link(access, name="mover")
    yield link
    link.close()


class Moves:
    """Each move for a batch, as one call."""

    def __init__(self, queue: CampaignCommands) -> None:
        self.queue = queue
        self._numbers = itertools.count(1)
        self._leases: list[Lease] = []

    def enqueue(self) -> None:
        first = BATCH * next(self._numbers)
        batch = [Submission(encode(c), b"%012d" % c["x"]) for c in configs(first, BATCH)]
        self.queue.enqueue("d", first, batch, reuse=False)

    def lease(self) -> None:
        self._leases = self._settle([], BATCH)
        assert len(self._leases) == BATCH

    def settle(self) -> None:
        ended = [
            Settlement(
                lease.id, lease.attempt, Outcome.OK, 0.003, 1.0, "a1b2c3d4", b"17", b"", lease.request,
                lease.digest,
            )
            for lease in self._leases
        ]  # fmt: skip
        self._settle(ended, 0)

    def read(self) -> None:
        assert len(self.queue.read_after("0-0", BATCH)) == BATCH

    def _settle(self, ended: list[Settlement], room: int) -> list[Lease]:
        return self.queue.settle(
            "worker-1", ended, lease_ms=30_000, request=f"life-{next(self._numbers)}", room=room, prefetch=0,
            slots=1, now=1.0,
        ).leases  # fmt: skip


def configs(first: int, count: int) -> list[dict[str, Any]]:
    return [{"x": x, "rate": x / 7, "kind": "relu"} for x in range(first, first + count)]


def test_a_call_executes_and_moves_what_is_written_down(counter: Counter, mover: Link) -> None:
    queue, _ = CampaignCommands.open(mover, "c", {"function": "m:f", "method": "thread"}, accept_change=False)
    moves = Moves(queue)
    for move in (moves.enqueue, moves.enqueue, moves.lease, moves.settle):
        move()  # the first calls make keys and load the scripts
    moves.enqueue()
    for name in ("enqueue", "lease", "settle", "read"):
        _, to_server, back = counter.sent_by("mover")
        counter.start()
        getattr(moves, name)()
        executed = counter.commands()
        _, then_to_server, then_back = counter.sent_by("mover")
        assert executed == COMMANDS[name], name
        per_job = (then_to_server - to_server) / BATCH, (then_back - back) / BATCH
        assert per_job == pytest.approx(BYTES[name], rel=TOLERANCE, abs=0.5), name


def test_a_job_takes_as_much_memory_as_is_written_down(counter: Counter, mover: Link) -> None:
    queue, _ = CampaignCommands.open(mover, "c", {"function": "m:f", "method": "thread"}, accept_change=False)
    moves = Moves(queue)
    memory = {}
    for _ in range(BATCHES):
        moves.enqueue()
    memory["waiting"] = counter.memory_of(queue) / (BATCH * BATCHES)
    for _ in range(BATCHES):
        moves.lease()
        moves.settle()
    memory["finished"] = counter.memory_of(queue) / (BATCH * BATCHES)
    assert memory == pytest.approx(MEMORY, rel=TOLERANCE)


def test_a_driver_sends_as_few_commands_as_are_written_down(counter: Counter, own_home: Path) -> None:
    options = {"campaign": "c", "home": own_home, "local_workers": False}
    with Evaluator.create("tests.support.functions:run", "thread", options) as driver:
        worker = FakeWorker(own_home, "c")
        try:
            executed: dict[str, int] = {}
            for first in (0, BATCH):  # the first round loads the scripts and learns the host of the worker
                before = counter.sent_by("queue_eval-driver")[0]
                driver.submit(configs(first, BATCH))
                between = counter.sent_by("queue_eval-driver")[0]
                wait_until(lambda first=first: counter.finished("c") == first + BATCH)
                assert len(driver.gather("ALL", timeout=20)) == BATCH
                after = counter.sent_by("queue_eval-driver")[0]
                executed = {"submit": between - before, "gather": after - between}
        finally:
            worker.close()
    assert executed == DRIVER


class IdleWorker:
    """A worker whose threads do not run: each of its rounds is counted by itself."""

    def __init__(self, home: Path, counter: Counter) -> None:
        access = read_access(home)
        assert access is not None
        self.name = f"idle-{next(_names)}"
        self._counter = counter
        self._worker = Worker(access, WorkerOptions(1, name=self.name, home=home))

    def round(self) -> int:
        """One heartbeat and one look for dead workers; how many commands were executed for that."""
        before = self._sent()
        self._worker._keeper.beat()
        self._worker._reclaimer._look_about()
        return self._sent() - before

    def listens_to(self) -> int:
        return len(self._worker._state.wake_keys())

    def serves(self) -> int:
        return len(self._worker._state.campaigns.holdings())

    def close(self) -> None:
        self._worker._keeper.sign_off()
        for link in (self._worker._link, self._worker._settler_link, self._worker._keeper_link):
            link.close()

    def _sent(self) -> int:
        return self._counter.sent_by(f"queue-eval-worker:{self.name}")[0]


def test_what_is_over_costs_an_idle_worker_nothing(
    counter: Counter, mover: Link, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting, "REST_AFTER_S", 0.0)
    worker = IdleWorker(own_home, counter)
    rounds = {}
    try:
        for count in (1, 300):
            for number in range(counter.campaigns(), count):
                CampaignCommands.open(
                    mover, f"c{number}", {"function": "m:f", "method": "thread"}, accept_change=False
                )
            worker.round()
            wait_until(lambda count=count: worker.round() and counter.resting() == count)
            rounds[count] = min(worker.round() for _ in range(3))
            assert (worker.serves(), worker.listens_to()) == (0, 0)
    finally:
        worker.close()
    assert rounds[300] == rounds[1]


def test_a_heartbeat_for_many_open_campaigns_takes_as_few_calls_as_for_one(
    counter: Counter, mover: Link, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker far from its server would lose its leases."""
    calls: list[object] = []
    call = Link.call

    def counted(link: Link, operation: Callable[[Any], Any]) -> Any:
        calls.append(operation)
        return call(link, operation)

    fields = {"function": "tests.support.functions:run", "method": "thread", "options": OPTIONS}
    worker = IdleWorker(own_home, counter)
    taken = {}
    try:
        for count in (1, 150):
            for number in range(counter.campaigns(), count):
                CampaignCommands.open(mover, f"c{number}", fields, accept_change=False)
            worker.round()
            assert worker.serves() == worker.listens_to() == count
            with monkeypatch.context() as patch:
                patch.setattr(Link, "call", counted)
                calls.clear()
                worker.round()
                taken[count] = len(calls)
    finally:
        worker.close()
    assert taken[150] == taken[1] <= 8
