"""close, purge with an age, unlist: which campaigns expire, and that nothing alive ever does."""

from __future__ import annotations

import pytest

from queue_eval.campaign.commands import CampaignCommands, unlist
from queue_eval.campaign.expiry import closed_ms_of, find_expired
from tests.support.lua_campaign import FIELDS, LuaCampaign, submission

DAY_MS = 86_400_000
REGISTER = "qe:campaigns"


@pytest.fixture
def unnamed(make_campaign) -> LuaCampaign:
    """A campaign that nobody has named, with two finished jobs."""
    campaign = make_campaign(expires="1")
    finish(campaign, 2)
    return campaign


def finish(campaign: LuaCampaign, count: int) -> None:
    campaign.add(count)
    for token in campaign.lease(room=count):
        campaign.ok("w1", token)


def age(campaign: LuaCampaign, days: float) -> None:
    """As if it had been created and closed so long ago."""
    meta = campaign.queue.keys.meta
    ms, *rest = campaign.client.hget(meta, "closed").decode().split()
    campaign.client.hset(meta, "closed", " ".join([str(int(ms) - round(days * DAY_MS)), *rest]))
    campaign.client.zincrby(REGISTER, -days * DAY_MS, campaign.name)


def keys_of(campaign: LuaCampaign) -> list[bytes]:
    return list(campaign.client.scan_iter(f"qe:\\{{{campaign.name}}}:*"))


def is_purged(campaign: LuaCampaign, age_ms: int = 0) -> bool:
    before = campaign.client.zscore(REGISTER, campaign.name)
    purged = campaign.queue.purge_expired(before, age_ms)
    assert purged == (keys_of(campaign) == [])
    assert purged == (campaign.client.zscore(REGISTER, campaign.name) is None)
    return purged


def found(campaign: LuaCampaign, age_s: float = 0) -> bool:
    return campaign.name in [one.campaign for one in find_expired(campaign.link, age_s)]


def test_a_closed_one_goes_when_it_is_old_enough(unnamed):
    assert unnamed.queue.close(2)
    age(unnamed, 13.9)
    assert not found(unnamed, 14 * 86400)
    assert not is_purged(unnamed, 14 * DAY_MS)
    age(unnamed, 0.2)
    assert found(unnamed, 14 * 86400)
    notices = unnamed.client.xlen("qe:notices")
    assert is_purged(unnamed, 14 * DAY_MS)
    assert unnamed.client.xlen("qe:notices") == notices + 1


def test_an_empty_one_goes_too(make_campaign):
    campaign = make_campaign(expires="1")
    assert campaign.queue.close(0)
    assert is_purged(campaign)


def test_one_that_nobody_has_closed_stays(unnamed):
    assert not found(unnamed)
    assert not is_purged(unnamed)


@pytest.mark.parametrize("expires", ["", None])
def test_a_named_one_or_one_of_the_build_before_stays(make_campaign, expires):
    campaign = make_campaign(**({} if expires is None else {"expires": expires}))
    finish(campaign, 1)
    assert not campaign.queue.close(1)
    assert not is_purged(campaign)


def test_one_with_a_result_that_was_not_gathered_stays(unnamed):
    assert not unnamed.queue.close(1)
    assert not is_purged(unnamed)


@pytest.mark.parametrize("options", [{}, {"delay_ms": 60_000}, {"slots": 2}])
def test_one_with_an_open_job_stays(unnamed, options):
    unnamed.add(1, **options)
    assert not unnamed.queue.close(2)
    assert not unnamed.queue.close(3)
    assert not is_purged(unnamed)


def test_one_with_a_held_job_stays(unnamed):
    unnamed.add(1)
    unnamed.lease()
    assert not unnamed.queue.close(3)
    assert not is_purged(unnamed)


def reopen(campaign):
    CampaignCommands.open(campaign.link, campaign.name, FIELDS, accept_change=False)


def reopen_by_name(campaign):
    CampaignCommands.open(campaign.link, campaign.name, FIELDS | {"expires": ""}, accept_change=False)


def submit_and_finish(campaign):
    finish(campaign, 1)


def submit(campaign):
    campaign.add(1)


def submit_with_reuse(campaign):
    campaign.send([submission({"x": "new"})], reuse=True)


@pytest.mark.parametrize(
    "act",
    [
        reopen, reopen_by_name, submit_and_finish, submit, submit_with_reuse, lambda c: c.queue.keep(),
    ],
    ids=["the-build-before", "by-name", "finished-again", "submitted", "submitted-with-reuse", "attached"],
)  # fmt: skip
def test_what_happens_after_closing_keeps_it(unnamed, act):
    """Also what drivers of the build before do, which know of no mark."""
    unnamed.queue.close(2)
    assert closed_ms_of(unnamed.queue.meta()) is not None
    act(unnamed)
    assert closed_ms_of(unnamed.queue.meta()) is None
    assert not found(unnamed)
    assert not is_purged(unnamed)


def test_one_whose_job_was_retried_stays(make_campaign):
    campaign = make_campaign(expires="1")
    campaign.add(1)
    campaign.fail("w1", campaign.lease()[0])
    assert campaign.queue.close(1)
    campaign.queue.retry([1])
    assert not is_purged(campaign)
    campaign.ok("w1", campaign.lease()[0])
    assert not is_purged(campaign), "nobody has gathered what came of it"
    assert not campaign.queue.close(1)


def test_a_clock_that_was_set_back_deletes_nothing(unnamed):
    unnamed.queue.close(2)
    age(unnamed, -1)
    assert not is_purged(unnamed)


@pytest.mark.parametrize("closed", ["", "x", "1 2", "-1 2 1", "1 2 1 4", "9" * 40])
def test_a_damaged_mark_deletes_nothing(unnamed, closed):
    unnamed.queue.close(2)
    unnamed.client.hset(unnamed.queue.keys.meta, "closed", closed)
    assert not found(unnamed)
    assert not is_purged(unnamed)


def test_only_the_one_that_was_seen_goes(unnamed):
    """It was purged meanwhile, and one of its name was made, which expires as well."""
    unnamed.queue.close(2)
    unnamed.client.zincrby(REGISTER, -5, unnamed.name)  # the other is made later, by the clock
    (seen,) = [one for one in find_expired(unnamed.link, 0) if one.campaign == unnamed.name]
    unnamed.queue.purge()
    anew = LuaCampaign(unnamed.link, unnamed.name, expires="1")
    anew.queue.close(0)
    seen.purge(unnamed.link, 0)
    assert keys_of(anew)
    assert anew.client.zscore(REGISTER, anew.name) is not None


def test_a_name_that_was_left_behind_is_taken_off(unnamed):
    """As by a process that died between the two steps."""
    listed_ms = unnamed.client.zscore(REGISTER, unnamed.name)
    unnamed.queue.purge()
    unnamed.client.zadd(REGISTER, {unnamed.name: listed_ms})
    assert unnamed.name not in [one.campaign for one in find_expired(unnamed.link, 0, tidies=False)]
    assert unnamed.client.zscore(REGISTER, unnamed.name) == listed_ms
    assert not found(unnamed)
    assert unnamed.client.zscore(REGISTER, unnamed.name) is None


def test_a_later_campaign_of_the_name_stays_on_the_register(unnamed):
    listed_ms = unnamed.client.zscore(REGISTER, unnamed.name)
    assert not unlist(unnamed.link, unnamed.name, repr(listed_ms - 1))
    assert unnamed.client.zscore(REGISTER, unnamed.name) == listed_ms
    assert unlist(unnamed.link, unnamed.name, repr(listed_ms))
    assert not unlist(unnamed.link, unnamed.name, repr(listed_ms))


def test_a_damaged_campaign_does_not_hide_the_others(unnamed, make_campaign):
    damaged = make_campaign(expires="1")
    damaged.client.delete(damaged.queue.keys.meta)
    damaged.client.lpush(damaged.queue.keys.meta, "x")
    unnamed.queue.close(2)
    assert found(unnamed)
    assert not found(damaged)
    damaged.client.delete(damaged.queue.keys.meta)
