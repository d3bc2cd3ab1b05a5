"""settle after a server went back in time, when ids and tokens are given a second time."""

from __future__ import annotations

import pytest

from queue_eval.model.moves import Lease, Settlement
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import LuaCampaign, settlement


def of(lease: Lease, outcome: Outcome = Outcome.OK, **changed: str) -> Settlement:
    """The outcome of this lease; `changed` is what it bore instead, before the server went back."""
    one = settlement((lease.id, lease.attempt), outcome)
    return one._replace(**({"request": lease.request, "digest": lease.digest} | changed))


@pytest.fixture
def lease(campaign: LuaCampaign) -> Lease:
    campaign.add(1)
    (lease,) = campaign.settle("w1", room=1, request="life-1").leases
    return lease


def test_a_lease_bears_its_request_and_what_tells_its_config(campaign):
    campaign.enqueue({"x": 1}, {"x": 2}, {"x": 1})
    one, other, twin = campaign.settle("w1", room=3, request="life-1").leases
    assert {one.request, other.request, twin.request} == {"life-1"}
    assert one.digest == twin.digest != other.digest


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.ERROR])
def test_an_outcome_under_its_own_lease_counts(campaign, lease, outcome):
    assert campaign.settle("w1", of(lease, outcome)).verdicts == ["recorded"]


@pytest.mark.parametrize("worker", ["w1", "w2"])
def test_a_success_of_another_lease_counts_for_the_same_config(campaign, lease, worker):
    assert campaign.settle(worker, of(lease, request="former-9")).verdicts == ["recorded"]
    assert campaign.count(State.SUCCEEDED) == 1
    assert campaign.count(State.RUNNING) == 0


@pytest.mark.parametrize("worker", ["w1", "w2"])
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.ERROR, Outcome.LOST])
def test_nothing_counts_for_another_config(campaign, lease, worker, outcome):
    foreign = of(lease, outcome, request="former-9", digest="0123456789abcdef")
    assert campaign.settle(worker, foreign).verdicts == ["stale"]
    assert campaign.count(State.RUNNING) == 1
    assert campaign.settle("w1", foreign, of(lease)).verdicts[1] == "recorded"
    (entry,) = campaign.results()
    assert (entry.id, entry.worker, entry.state) == (lease.id, "w1", State.SUCCEEDED)


def test_a_failure_under_another_lease_is_stale(campaign, lease):
    assert campaign.settle("w1", of(lease, Outcome.ERROR, request="former-9")).verdicts == ["stale"]
    assert campaign.count(State.RUNNING) == 1


def test_a_success_from_before_a_retry_counts_still(campaign, lease):
    """A retry changes the time of submission, not the config."""
    campaign.settle("w1", of(lease, Outcome.ERROR))
    campaign.queue.retry([lease.id])
    assert campaign.settle("w1", of(lease)).verdicts == ["recorded"]
    assert campaign.count(State.SUCCEEDED) == 1
