"""The reply of a call that leased jobs is lost with a node of a cluster: nobody here knows what it leased."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import NodeAwayError
from queue_eval.model.moves import Settled
from queue_eval.model.states import State
from queue_eval.transport.access import find_access
from tests.support.fault_fleet import check_all_recorded, wait_state
from tests.support.waiting import wait_until
from workers.options import WorkerOptions
from workers.worker import Worker

LEASE_S = 600.0
"""What is held in vain until the heartbeat gives it back is held for longer than these tests last."""


class Losses:
    """Of calls that lease: which are to lose their replies, and what was asked and leased."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        self.leased: list[list[int]] = []
        self.is_losing = True
        settle = CampaignCommands.settle

        def lose(queue: CampaignCommands, *arguments: Any, **keywords: Any) -> Settled:
            reply = settle(queue, *arguments, **keywords)
            if keywords["lease_ms"]:
                self.requests.append(keywords["request"])
                self.leased.append([lease.id for lease in reply.leases])
                # Not that of a call which found no job yet: asked again, it brings none again.
                if self.is_losing and reply.leases:
                    raise NodeAwayError("the node fell silent")
            return reply

        monkeypatch.setattr(CampaignCommands, "settle", lose)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    return Losses(monkeypatch)


@pytest.fixture
def worker(fleet, campaign) -> Iterator[Worker]:
    access = find_access(None, fleet.home)
    assert access is not None
    options = WorkerOptions(2, name="w", lease_s=LEASE_S, home=fleet.home, campaigns=(campaign,))
    worker = Worker(access, options)
    worker._start()
    yield worker
    worker._state.drain()
    worker._end()


@pytest.mark.long
def test_the_same_request_brings_what_was_leased(fleet, campaign, losses, worker):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(x) for x in range(2)])
        wait_until(lambda: [1, 2] in losses.leased)
        losses.is_losing = False
        jobs = driver.gather("ALL", timeout=60)
        assert sorted((job.result, job.attempts) for job in jobs) == [(0, 1), (1, 1)]
        assert fleet.begun() == {1: 1, 2: 1}
        first = losses.leased.index([1, 2])
        assert losses.leased[first + 1] == [1, 2]
        assert losses.requests[first + 1] == losses.requests[first]
        # It was answered: the next ones are others.
        assert len({*losses.requests[first:]}) == len(losses.requests[first:]) - 1
        check_all_recorded(fleet.queue(campaign), 2)


def test_a_worker_that_ends_gives_it_back(fleet, campaign, losses, worker):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(x) for x in range(2)])
        wait_until(lambda: [1, 2] in losses.leased)
        wait_state(fleet.queue(campaign), State.RUNNING, 2)
        # At its end the worker hears the node again: it asks once more before it leaves.
        finish = worker._settler.finish

        def hear(*arguments: Any) -> None:
            losses.is_losing = False
            finish(*arguments)

        worker._settler.finish = hear
        worker._state.drain()
        worker._end()
        wait_state(fleet.queue(campaign), State.PENDING, 2)
        assert not fleet.begun()
