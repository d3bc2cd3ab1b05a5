"""Children that stay warm after the last job of their campaign: how many there are, and which end first."""

from __future__ import annotations

import json
import os
import resource
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.states import Method
from queue_eval.runtime.pipe import Setup
from tests.support.executor_harness import FUNCTIONS, ROOT
from tests.support.fault_fleet import wait_registered
from tests.support.waiting import wait_until
from workers import runner
from workers.executors import child_limit, make_executor
from workers.executors.child_limit import ChildLimit
from workers.executors.forward import Forwarder
from workers.executors.pool import ChildPool
from workers.executors.protocol import Ended, Executor, Plan
from workers.runner import Runner

SLOTS = 2
MOST = 10
"""Two slots, and eight warm ones."""


class Lanes:
    """A runner whose every attempt is told of here."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._before = children()
        self.ended_by_lane: dict[str, list[Ended]] = {}
        self.released: list[Token] = []
        self._lock = threading.Lock()
        self.runner = Runner(self)
        self.runner.start()

    def submit(self, key: str, *configs: dict[str, Any]) -> None:
        plan = _plan(self._method, key)
        texts = [json.dumps({"id": 1} | config).encode() for config in configs]
        self.runner.submit(key, plan, [Attempt((job + 1, 1), text) for job, text in enumerate(texts)])

    def run(self, key: str, count: int = SLOTS) -> set[int]:
        """Run jobs that end at once; which children it has started."""
        before = self.children()
        self.submit(key, *[{"do": "nothing"}] * count)
        wait_until(lambda: self.count(key) == count)
        return self.children() - before

    def count(self, key: str) -> int:
        with self._lock:
            return len(self.ended_by_lane.get(key, ()))

    def children(self) -> set[int]:
        return children() - self._before

    def close(self) -> None:
        self.runner.close()

    def ended(self, lane_id: str, attempts: list[Ended], missing_slots: int) -> None:
        with self._lock:
            self.ended_by_lane.setdefault(lane_id, []).extend(attempts)

    def loaded(self, lane_id: str, revision: int) -> None: ...

    def given_up(self, lane_id: str, tokens: list[Token], missing_slots: int, *, release: bool) -> None:
        self.released += tokens

    def troubled(self, lane_id: str, why: str) -> None: ...


def children() -> set[int]:
    found = psutil.Process().children()
    return {process.pid for process in found if process.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture
def lanes() -> Iterator[Callable[[Method], Lanes]]:
    made: list[Lanes] = []

    def make(method: Method) -> Lanes:
        made.append(Lanes(method))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("method", "each"), [(Method.PROCESS, 2), (Method.THREAD, 1)])
def test_the_children_of_finished_campaigns_are_bounded_and_the_oldest_go_first(lanes, method, each):
    lane = lanes(method)
    started = []
    for number in range(MOST // each + 3):
        started.append(lane.run(f"campaign {number}"))
        assert len(lane.children()) <= MOST
    assert [len(pids) for pids in started] == [each] * len(started)
    assert lane.children() == set().union(*started[3:])


def test_a_campaign_that_is_served_again_counts_as_the_newest(lanes):
    lane = lanes(Method.PROCESS)
    started = [lane.run(f"campaign {number}") for number in range(5)]
    lane.submit("campaign 0", {"do": "nothing"}, {"do": "nothing"})
    wait_until(lambda: lane.count("campaign 0") == 4)
    newest = lane.run("campaign 5")
    assert lane.children() == set().union(started[0], *started[2:], newest)


def test_children_that_are_busy_do_not_end_for_others(lanes, tmp_path):
    lane = lanes(Method.PROCESS)
    gates = [tmp_path / f"gate {number}" for number in range(MOST)]
    begun = [tmp_path / f"begun {number}" for number in range(MOST)]
    for number in range(MOST):
        config = {"do": "wait_for", "started": str(begun[number]), "gate": str(gates[number])}
        lane.submit(f"campaign {number}", config)
    wait_until(lambda: all(file.exists() for file in begun))
    more = lane.run("one more", 1)
    assert len(more) == 1
    assert len(lane.children()) == MOST + 1
    for gate in gates:
        gate.touch()
    wait_until(lambda: all(lane.count(f"campaign {number}") == 1 for number in range(MOST)))
    # The newest is the oldest idle one by now.
    last = lane.run("another", 1)
    assert len(lane.children()) == MOST
    assert more.isdisjoint(lane.children())
    assert last <= lane.children()


def test_interpreters_that_only_wait_do_not_take_each_others_places(lanes):
    lane = lanes(Method.SUBPROCESS)
    for number in range(4):
        lane.submit(f"campaign {number}", *[{"do": "nothing"}] * 6)
    wait_until(lambda: all(lane.count(f"campaign {number}") == 6 for number in range(4)), 60)
    assert len(lane.children()) <= MOST


def test_a_lane_is_forgotten_with_its_children(lanes, monkeypatch):
    monkeypatch.setattr(runner, "_IDLE_CLOSE_S", 0.0)
    lane = lanes(Method.PROCESS)
    lane.run("campaign")
    wait_until(lambda: not lane.runner._lanes)
    assert lane.children() == set()
    lane.submit("campaign", {"do": "nothing"})
    wait_until(lambda: lane.count("campaign") == SLOTS + 1)


@pytest.mark.long
def test_lanes_whose_children_ended_for_others_are_forgotten(lanes):
    """Each is looked at in every turn of the runner."""
    lane = lanes(Method.PROCESS)
    for number in range(2 * MOST):
        lane.run(f"campaign {number}")
    wait_until(lambda: len(lane.runner._lanes) <= MOST / SLOTS)
    assert len(lane.children()) == MOST


def test_an_idle_child_ends_where_another_could_not_be_started(monkeypatch):
    """The worker's other threads may take the last files between the look and the start."""
    monkeypatch.setattr(child_limit, "_is_short_of_files", lambda: False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = ChildLimit()
    with selectors.DefaultSelector() as selector:
        pools = [_pool(name, selector, limit) for name in ("first", "second")]
        try:
            _run_one(pools[0], selector)
            resource.setrlimit(resource.RLIMIT_NOFILE, (_number_of_file(5) + 1, before[1]))
            _run_one(pools[1], selector)
            assert [pool.children for pool in pools] == [0, 1]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for pool in pools:
                pool.close()


def _plan(method: Method, campaign: str) -> Plan:
    setup = Setup(f"{FUNCTIONS}:do", None, (str(ROOT),), {}, threads=1)
    return Plan(method, setup, SLOTS, None, sys.executable, revision=1, campaign=campaign)


def _pool(campaign: str, selector: selectors.BaseSelector, limit: ChildLimit) -> ChildPool:
    pool = make_executor(_plan(Method.PROCESS, campaign), selector, limit)
    assert isinstance(pool, ChildPool)
    return pool


def _run_one(pool: ChildPool, selector: selectors.BaseSelector) -> None:
    pool.submit([Attempt((1, 1), b'{"id": 1}')])

    def has_ended() -> bool:
        for key, _ in selector.select(0.02):
            key.data()
        return bool(pool.collect(0.0))

    wait_until(has_ended)


def _number_of_file(count: int) -> int:
    """The number that the last of `count` files gets that are opened now: a start takes nine."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    for file in files:
        os.close(file)
    return files[-1]


FORWARDER = """
import socket, sys
from queue_eval.runtime.pipe import frame
pipe = socket.socket(fileno=int(sys.argv[1]))
pipe.sendall(frame(("slots", 2, "")))
while b"close" not in pipe.recv(1 << 16):
    pass
"""


def test_forwarders_of_finished_campaigns_are_bounded_and_the_oldest_go_first(tmp_path):
    backend = tmp_path / "backend.py"
    backend.write_text(FORWARDER)
    before = children()
    limit = ChildLimit()
    with selectors.DefaultSelector() as selector:
        forwarders: list[Forwarder] = []
        started: list[set[int]] = []
        try:
            for number in range(MOST + 2):
                known = children()
                forwarders.append(
                    Forwarder(_plan(Method.RQ, f"{number}"), backend, selector, limit, tells_begun=True)
                )
                forwarders[-1].submit([])
                wait_until(lambda: _turn(forwarders, selector) and forwarders[-1].idle_since is not None)
                started.append(children() - known)
                assert len(children() - before) <= MOST
            assert children() - before == set().union(*started[2:])
            assert [one.children for one in forwarders] == [0, 0, *[1] * MOST]
        finally:
            for one in forwarders:
                one.close()
    assert children() == before


def _turn(executors: Sequence[Executor], selector: selectors.BaseSelector) -> bool:
    for key, _ in selector.select(0.02):
        key.data()
    for one in executors:
        one.collect(time.monotonic())
    return True


@pytest.mark.long
def test_a_worker_with_few_open_files_does_not_stand_still(fleet, campaign):
    """Six campaigns one after the other, with four slots: the second has not the files for its children."""
    slots = 4
    worker = fleet.worker("--name", campaign, slots=slots)
    wait_registered(fleet, campaign)
    files = Path(f"/proc/{worker.pid}/fd")
    most = len(list(files.iterdir())) + 4 * slots + 24
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
    for number in range(6):
        with fleet.driver(f"{campaign}-{number}") as driver:
            driver.submit([fleet.config(x, sleep_s=0.05) for x in range(2 * slots)])
            assert len(driver.gather("ALL", timeout=30)) == 2 * slots
        assert len(list(files.iterdir())) < most
    assert "cannot start a process" not in fleet.output_of(worker)


def test_a_worker_says_that_its_files_do_not_suffice_for_its_slots(fleet, campaign):
    slots = 6
    worker = fleet.worker("--name", campaign, slots=slots)
    wait_registered(fleet, campaign)
    files = Path(f"/proc/{worker.pid}/fd")
    most = len(list(files.iterdir())) + 4 * 2 + 26
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (most, most))
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(x, sleep_s=0.1) for x in range(2 * slots)])
        assert len(driver.gather("ALL", timeout=30)) == 2 * slots
    wait_until(lambda: "raise it with 'ulimit -n'" in fleet.output_of(worker))
    assert fleet.output_of(worker).count("ulimit -n") == 1
