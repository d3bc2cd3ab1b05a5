"""How often a server, or a node of a cluster, that is away is tried."""

from __future__ import annotations

import logging
import random

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from queue_eval.errors import GiveUp
from queue_eval.transport import link as connection
from queue_eval.transport import nodes
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link
from queue_eval.transport.nodes import NodeAway, Nodes
from tests.support.networks import free_ports
from workers.options import WorkerOptions
from workers.worker import Worker

log = logging.getLogger(__name__)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_node_that_is_away_is_asked_again_at_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    asked_at: list[float] = []
    monkeypatch.setattr(nodes, "time", clock)

    def probe() -> None:
        asked_at.append(clock.now)
        if clock.now < 101.5:
            raise RedisConnectionError("nobody there")

    some = Nodes(log, pace_s=0.5)
    some.suspect("node")
    for _ in range(16):
        try:
            some.check("node", probe)
        except NodeAway:
            assert some.is_suspected("node")
        clock.now += 0.125
    assert asked_at == [100.0, 100.5, 101.0, 101.5]
    assert not some.is_suspected("node")


@pytest.mark.parametrize(("lease_s", "pace_s"), [(2.0, 0.5), (30.0, 2.0)])
def test_a_worker_tries_often_enough_for_its_leases(lease_s, pace_s, monkeypatch, tmp_path):
    """What a server that was frozen leases in the moment of its return must be extended in time."""
    url = f"redis://127.0.0.1:{free_ports(1)[0]}"
    worker = Worker(Access(url, b"k", None), WorkerOptions(name="w", slots=1, lease_s=lease_s, home=tmp_path))
    pauses_s: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", pauses_s.append)
    monkeypatch.setattr(random, "uniform", lambda least, most: most)

    def wait(away_s: float) -> None:
        if len(pauses_s) > 12:
            raise GiveUp

    for link in (worker._link, worker._settler_link, worker._keeper_link):
        pauses_s.clear()
        link._on_wait = wait
        with pytest.raises(GiveUp):
            link.call(lambda client: client.ping())
        assert max(pauses_s) == pauses_s[-1] == pace_s


def test_others_try_seldom() -> None:
    assert Link(Access("redis://127.0.0.1:1", b"k", None), name="x").outage.pace_s == nodes.PACE_S
