"""The server's clock is set back: leases, delays and reservations last no longer for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.registry import WorkerCard, live_workers
from queue_eval.transport.link import Link
from tests.model.still_server import StillLink
from tests.support.lua_campaign import LEASE_MS, ids
from tests.support.still_campaign import StillCampaign

GRACE_MS = 30_000
NOTED_MS = GRACE_MS // 8
"""How seldom the time is noted."""

HOUR_MS = 3_600_000


class Clocked(StillCampaign):
    def wait(self, ms: int) -> None:
        """Time passes, in which somebody looks for dead workers all the time."""
        for step in [1000] * (ms // 1000) + [ms % 1000]:
            self.pass_time(step)
            self.reclaim()

    def set_back(self, ms: int) -> None:
        self.pass_time(-ms)

    def reclaim(self) -> list[int]:
        return self.queue.reclaim(grace_ms=GRACE_MS).ids

    def extend(self, worker: str, *tokens: tuple[int, int], lease_ms: int = LEASE_MS) -> None:
        self.queue.extend(worker, lease_ms, tokens)


@pytest.fixture
def clocked(link: Link) -> Iterator[Clocked]:
    still = StillLink(link.access)
    yield Clocked(still)
    still.close()


def test_a_dead_workers_jobs_come_back_a_lease_after_the_clock_was_set_back(clocked: Clocked) -> None:
    clocked.add(2)
    clocked.lease("dead")
    (alive,) = clocked.lease("alive")
    clocked.extend("alive", alive)
    clocked.wait(1000)
    clocked.set_back(HOUR_MS)
    assert clocked.reclaim() == []
    for _ in range(3):
        clocked.extend("alive", alive)
        clocked.wait(LEASE_MS // 3 - 100)
    assert clocked.columns().held.keys() == {b"alive", b"dead"}
    clocked.wait(300)
    assert clocked.columns().held.keys() == {b"alive"}
    assert ids(clocked.lease("other")) == [1]


def test_nothing_is_taken_from_who_had_no_time_to_extend(clocked: Clocked) -> None:
    """The longest lease counts, not that of whoever looks first."""
    clocked.add()
    (token,) = clocked.lease("slow", lease_ms=600_000)
    clocked.extend("slow", token, lease_ms=600_000)
    clocked.wait(1000)
    clocked.set_back(HOUR_MS)
    clocked.wait(590_000)
    assert clocked.columns().held.keys() == {b"slow"}
    clocked.wait(11_000)
    assert clocked.columns().held == {}


def test_delayed_jobs_wait_for_what_was_left(clocked: Clocked) -> None:
    clocked.add(5000, delay_ms=20_000)
    clocked.wait(10_000)
    clocked.set_back(HOUR_MS)
    clocked.wait(9_000)
    assert clocked.lease() == []
    clocked.wait(1_000 + NOTED_MS)
    assert len([*itertools.chain(*(clocked.lease(room=1000) for _ in range(5)))]) == 5000


def test_a_step_of_half_a_second_changes_nothing(clocked: Clocked) -> None:
    clocked.add()
    clocked.lease("dead")
    clocked.wait(LEASE_MS)
    clocked.set_back(500)
    clocked.wait(1000)
    assert clocked.columns().held == {}


def test_a_clock_that_was_wrong_from_the_start(clocked: Clocked) -> None:
    """The marks of the last absence lie in the future as well."""
    clocked.add()
    clocked.lease("dead")
    clocked.wait(1000)
    clocked.client.hset(clocked.queue.keys.meta, "server_run", "of a life before")
    clocked.wait(1000)
    clocked.set_back(HOUR_MS)
    clocked.wait(LEASE_MS + 1000)
    assert clocked.columns().held == {}


@pytest.mark.parametrize("first_ms", [GRACE_MS, 12_000], ids=["a driver", "a worker"])
def test_an_absence_is_measured_by_the_shortest_lease(clocked: Clocked, first_ms: int) -> None:
    """After a longer one all have one lease to be heard of again, whoever asks first."""
    clocked.add(2)
    tokens = {name: clocked.lease(name)[0] for name in ("first", "second")}
    for name, token in tokens.items():
        clocked.extend(name, token, lease_ms=12_000)
    clocked.wait(2000)
    clocked.pass_time(13_000)
    assert clocked.queue.reclaim(grace_ms=first_ms).ids == []
    clocked.extend("first", tokens["first"], lease_ms=12_000)
    for grace_ms in (12_000, GRACE_MS, 12_000):
        clocked.pass_time(3500)
        assert clocked.queue.reclaim(grace_ms=grace_ms).ids == []
    # Who is not heard of in that time is dead.
    clocked.extend("first", tokens["first"], lease_ms=12_000)
    clocked.pass_time(2000)
    assert clocked.queue.reclaim(grace_ms=12_000).ids == [tokens["second"][0]]


@pytest.mark.parametrize("lease_ms", [1000, 12_000, GRACE_MS, 120_000])
def test_a_driver_that_asks_every_two_seconds_has_not_been_away(clocked: Clocked, lease_ms: int) -> None:
    clocked.add()
    (token,) = clocked.lease("dead")
    clocked.extend("dead", token, lease_ms=lease_ms)
    for _ in range((lease_ms - 1) // 2000):
        clocked.pass_time(2000)
        assert clocked.reclaim() == []
    clocked.pass_time(2000)
    assert clocked.reclaim() == [1]


def test_a_guard_from_before_holds_nobody_up(clocked: Clocked) -> None:
    queue = clocked.queue
    assert queue.take_hiring("died", 10_000)
    assert not queue.take_hiring("mine", 10_000)
    # Keys expire by the server's own clock, which no test can move: this is what is left after a step back.
    clocked.client.pexpire(queue.keys.hiring, HOUR_MS)
    assert queue.take_hiring("mine", 10_000)
    assert clocked.client.pttl(queue.keys.hiring) <= 10_000


def test_a_worker_is_not_shown_for_longer_than_its_card_would_stay(clocked: Clocked) -> None:
    link, client = clocked.queue.link, clocked.client
    client.set(keys.worker_key("gone"), WorkerCard(name="gone", lease_s=2.0).encode())
    now_ms = time.time() * 1000
    client.zadd(keys.WORKERS, {"gone": now_ms + HOUR_MS})
    (shown,) = live_workers(link)
    assert shown.last_seen_s < 1
    # From now on its silence counts.
    assert abs(client.zscore(keys.WORKERS, "gone") - now_ms) < 10_000
    client.zadd(keys.WORKERS, {"gone": now_ms - 6000})
    assert live_workers(link) == []
    client.delete(keys.WORKERS, keys.worker_key("gone"))
