"""Who gets a job that has a checkpoint: a worker that sees it, while others have something else to do."""

from __future__ import annotations

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.states import State
from tests.support.lua_campaign import LuaCampaign, settlement

HERE, THERE = "0123456789abcdef", "fedcba9876543210"
TEN_MINUTES_MS = 600_000


@pytest.fixture
def campaign(make_campaign) -> LuaCampaign:
    """Job 1 has a checkpoint there, and was given back; jobs 2 and 3 have none."""
    campaign = make_campaign(max_losses=9)
    campaign.add(3)
    (token,) = campaign.lease("first", place=THERE)
    campaign.told("first", token, checkpoint=f"1 {THERE}")
    campaign.die("first")
    return campaign


def distant(campaign: LuaCampaign, job: int = 1) -> tuple[bool, int]:
    """Whether it is left to others, and the attempt that began without its checkpoint."""
    since_ms, attempt = campaign.queue.distant_of([job])[0]
    return since_ms > 0, attempt


def jobs(campaign: LuaCampaign, worker: str, **options: object) -> list[int]:
    return [job for job, _ in campaign.lease(worker, **options)]


def test_a_worker_that_sees_the_folder_gets_it_in_its_order(campaign):
    assert jobs(campaign, "near", room=2, place=THERE) == [1, 2]
    assert distant(campaign) == (False, 0)


def test_another_one_takes_what_is_behind_first(campaign):
    assert jobs(campaign, "far", place=HERE) == [2]
    assert distant(campaign) == (True, 0)
    assert campaign.state(1) == State.PENDING
    assert jobs(campaign, "near", place=THERE) == [1]
    assert distant(campaign) == (False, 0), "the next row of looks begins anew"


def test_it_is_taken_where_nothing_else_waits_and_that_is_told(campaign):
    assert jobs(campaign, "far", room=3, place=HERE) == [2, 3, 1]
    assert distant(campaign) == (False, 2)


def test_a_new_checkpoint_ends_what_is_told(campaign):
    tokens = campaign.lease("far", room=3, place=HERE)
    campaign.told("far", tokens[2], checkpoint=f"1 {HERE}")
    assert distant(campaign) == (False, 0)


@pytest.mark.parametrize(("minutes", "taken"), [(9, 2), (10, 1), (11, 1), (-60, 1)])
def test_it_is_left_to_others_for_ten_minutes(campaign, minutes, taken):
    jobs(campaign, "far", place=HERE)
    since_ms, _ = campaign.queue.distant_of([1])[0]
    campaign.client.hset(campaign.queue.keys.column("distant"), 1, f"{since_ms - minutes * 60_000} 0")
    campaign.add(1)
    assert jobs(campaign, "far", place=HERE) == [3 if taken == 2 else 1]


def test_the_ten_minutes_begin_once(campaign):
    jobs(campaign, "far", place=HERE)
    before = campaign.queue.distant_of([1])
    jobs(campaign, "far", place=HERE)
    assert campaign.queue.distant_of([1]) == before


def test_a_worker_whose_folder_is_not_known_takes_them_in_order(campaign):
    assert jobs(campaign, "old") == [1]
    assert distant(campaign) == (False, 0)


def test_a_wide_job_is_left_to_others_as_well(make_campaign):
    campaign = make_campaign(max_losses=9)
    campaign.add(2, slots=2)
    (token,) = campaign.lease("first", room=2, slots=2, place=THERE)
    campaign.told("first", token, checkpoint=f"1 {THERE}")
    campaign.die("first")
    campaign.add(2)
    assert jobs(campaign, "far", room=2, slots=2, place=HERE) == [2]
    assert distant(campaign) == (True, 0)
    assert jobs(campaign, "near", room=2, slots=2, place=THERE) == [1]


def test_a_narrow_one_among_jobs_of_shapes_too(campaign):
    campaign.add(1, slots=2)
    assert jobs(campaign, "far", room=1, slots=2, place=HERE) == [2]
    assert jobs(campaign, "near", room=1, slots=2, place=THERE) == [1]


def test_a_hundred_behind_are_looked_at(make_campaign):
    campaign = make_campaign(max_losses=9)
    campaign.add(102)
    tokens = campaign.lease("first", room=101, place=THERE)
    for token in tokens:
        campaign.told("first", token, checkpoint=f"1 {THERE}")
    campaign.die("first")
    assert jobs(campaign, "far", place=HERE) == [1], "102 is beyond what is looked at"
    assert jobs(campaign, "far", place=HERE) == [102]


def test_what_is_told_ends_with_the_job(campaign):
    tokens = campaign.lease("far", room=3, place=HERE)
    campaign.settle("far", settlement(tokens[2]))
    assert campaign.columns().distant == {}


def test_campaigns_without_checkpoints_have_nothing_of_it(make_campaign):
    campaign = make_campaign()
    campaign.add(2)
    assert jobs(campaign, "w", room=2, place=HERE) == [1, 2]
    assert campaign.columns().distant == {}
    assert b"extras" not in campaign.columns().meta


@pytest.mark.parametrize("column", ["checkpoints", "distant"])
def test_a_damaged_column_keeps_nobody_from_leasing(campaign, column):
    key = campaign.queue.keys.column(column)
    campaign.client.delete(key)
    campaign.client.set(key, "x")
    queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    reply = queue.settle(
        "far", [], lease_ms=60_000, request="r", room=1, prefetch=0, slots=1, now=1000.0, place=HERE
    )
    assert len(reply.leases) == 1
