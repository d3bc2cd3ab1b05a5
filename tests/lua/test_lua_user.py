"""cancel, retry, purge, snapshot: what the user does by hand; and what damage must not do."""

from __future__ import annotations

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import CampaignNotFoundError
from queue_eval.model.moves import Release
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import (
    FIELDS,
    LEASE_MS,
    LuaCampaign,
    is_gone,
    settlement,
    submission,
    tokens,
)
from tests.support.waiting import wait_until

# cancel


def test_cancel_wherever_they_are(make_campaign):
    campaign = make_campaign(max_attempts=2)
    campaign.add(5)
    campaign.add(1, delay_ms=60_000)
    running, failing, done = campaign.lease(room=2, prefetch=1)
    campaign.fail("w1", failing)
    campaign.ok("w1", done)
    before = campaign.client.xlen("qe:notices")
    assert sorted(campaign.queue.cancel(range(1, 7))) == [1, 2, 4, 5, 6]
    assert campaign.client.xlen("qe:notices") == before + 1
    assert campaign.queue.cancel(range(1, 7)) == []
    assert campaign.count(State.CANCELLED) == 5
    executions = {entry.id: (entry.attempts, entry.worker) for entry in campaign.results()}
    assert executions == {1: (1, "w1"), 2: (1, ""), 3: (1, "w1"), 4: (0, ""), 5: (0, ""), 6: (0, "")}
    extended = campaign.queue.extend("w1", LEASE_MS, [running])
    assert extended.finished == [1]
    assert campaign.ok("w1", running) == campaign.fail("w1", running) == "finished"
    assert campaign.lease() == []


def test_a_prefetched_job_that_is_cancelled_has_run_no_attempt(campaign):
    campaign.add(1)
    campaign.lease(room=0, prefetch=1)
    campaign.queue.cancel([1])
    assert campaign.results()[0].attempts == 0


def test_cancel_only_what_waits(make_campaign):
    campaign = make_campaign(max_attempts=2)
    campaign.add(5)
    campaign.add(1, delay_ms=60_000)
    running, failing, done = campaign.lease(room=2, prefetch=1)
    campaign.fail("w1", failing)
    campaign.ok("w1", done)
    assert sorted(campaign.queue.cancel(range(1, 7), running=False)) == [2, 4, 5, 6]
    assert campaign.queue.cancel(range(1, 7), running=False) == []
    assert campaign.queue.cancel_up_to(6, running=False) == 0
    assert campaign.ok("w1", running) is not None
    assert [entry.state for entry in campaign.results()] == ["succeeded", *["cancelled"] * 4, "succeeded"]


def test_a_job_that_waits_on_its_worker_is_not_cancelled_as_one_that_waits(campaign):
    campaign.add(2)
    campaign.lease(room=0, prefetch=1)
    assert campaign.queue.cancel_up_to(2, running=False) == 1
    assert [entry.id for entry in campaign.results()] == [2]


def test_ids_that_are_none_are_not_cancelled(campaign):
    campaign.add(3)
    campaign.ok("w1", campaign.lease()[0])
    reply = campaign.queue._run(
        "cancel", "0", "-1", "1", "2", "2", "4", "1.5", "02", " 3", "3.0", "0x3", "1e0", "nan", "inf", "x", ""
    )
    assert reply == [b"2"]
    assert campaign.queue.cancel([]) == []


def test_cancel_10_000_in_one_call(campaign):
    campaign.queue.repeating = False
    campaign.add(10_000)
    campaign.lease(room=1500)
    assert len(campaign.queue._run("cancel", *range(1, 10_001))) == 10_000
    assert campaign.count(State.CANCELLED) == 10_000
    assert sorted(campaign.queue.retry(range(1, 10_001))) == list(range(1, 10_001))


# retry


def finish_badly(campaign):
    """Job 1 failed, 2 cancelled while it ran, 3 cancelled while it waited, 4 succeeded, 5 pending."""
    campaign.add(5)
    failing, running = campaign.lease(room=2)
    campaign.fail("w1", failing)
    campaign.queue.cancel([2, 3])
    campaign.ok("w1", campaign.lease()[0])
    return failing, running


def test_retry_runs_failed_and_cancelled_jobs_again_in_their_order(campaign):
    finish_badly(campaign)
    assert campaign.queue.retried() == 0
    assert sorted(campaign.queue.retry([5, 4, 3, 2, 1, 77])) == [1, 2, 3]
    assert campaign.queue.retry([1, 2, 3]) == []
    assert campaign.queue.retried() == 3
    assert campaign.lease(room=5) == [(1, 2), (2, 2), (3, 1), (5, 1)]
    assert len(campaign.results()) == 4, "the former outcomes stay in the log"


def test_retry_submits_anew_with_a_clean_history(make_campaign):
    campaign = make_campaign(max_attempts=2, max_losses=1, retry_first_ms=0)
    campaign.add(1, priority=3)
    campaign.settle("w1", settlement(campaign.lease()[0], Outcome.LOST, output=b"printed"))
    # Job 1 as it was long ago
    stamp, config = campaign.queue.configs_of([1])[0]
    campaign.client.hset(campaign.queue.keys.configs, 1, b"loyw3v28" + config)
    campaign.queue.retry([1])
    restamped, same = campaign.queue.configs_of([1])[0]
    assert restamped >= stamp
    assert same == config
    assert campaign.history(1) == "1 0 0 0 0"
    campaign.fail("w1", campaign.lease()[0])
    campaign.make_due()
    campaign.add(1, priority=2)
    (token,) = campaign.lease()
    assert token == (1, 3), "it has kept its priority, and its attempts both"
    campaign.ok("w1", token)
    assert campaign.results()[-1].attempts == 3


def test_old_tokens_are_never_valid_again(campaign):
    failing, running = finish_badly(campaign)
    campaign.queue.retry([1, 2])
    for token in (failing, running):
        assert campaign.fail("w1", token) == "stale"
        assert campaign.queue.release("w1", [Release(*token, "drain")]) == 0
    leased = campaign.lease("w2", room=2)
    assert leased == [(1, 2), (2, 2)]
    for token in (failing, running):
        assert campaign.fail("w2", token) == "stale"
    assert campaign.queue.extend("w2", LEASE_MS, [failing, running]).taken == [1, 2]


def test_a_success_of_before_the_retry_counts_as_one_execution(campaign):
    _, running = finish_badly(campaign)
    campaign.queue.retry([2])
    assert campaign.ok("w1", running) == "recorded"
    assert campaign.results()[-1].attempts == 1


def test_retried_output_is_forgotten(campaign):
    campaign.add(1)
    campaign.settle("w1", settlement(campaign.lease()[0], Outcome.ERROR, output=b"first"))
    assert campaign.queue.outputs_of([1]) == [b"first"]
    campaign.queue.retry([1])
    assert campaign.queue.outputs_of([1]) == [None]


def test_what_succeeded_runs_again_by_its_result(campaign):
    campaign.add(3)
    first, second, _ = campaign.lease(room=3)
    campaign.ok("w1", first)
    campaign.fail("w1", second)
    entries = {entry.id: entry.entry for entry in campaign.results()}
    assert campaign.queue.retry_results({1: "1-1", 3: entries[1], 77: entries[1]}) == []
    assert sorted(campaign.queue.retry_results(entries)) == [1, 2]
    assert campaign.queue.retry_results(entries) == []
    assert (campaign.count(State.PENDING), campaign.count(State.RUNNING)) == (2, 1)
    again, _ = campaign.lease("w2", room=2)
    assert again[0] == first[0] == 1
    assert again[1] > first[1], "no old token is ever valid again"
    assert campaign.fail("w1", first) == "stale"
    assert campaign.ok("w2", again) == "recorded"
    assert campaign.results()[-1].attempts == 2
    assert campaign.queue.snapshot().conserved


def test_retry_leaves_a_marker(campaign):
    finish_badly(campaign)
    assert campaign.wakes(lambda: campaign.queue.retry([1]))
    assert not campaign.wakes(lambda: campaign.queue.retry([1]))


# snapshot and reading


def test_a_snapshot_counts_every_state(make_campaign):
    campaign = make_campaign(max_attempts=1)
    campaign.add(6)
    campaign.add(1, delay_ms=60_000)
    one, two, _ = campaign.lease(room=3)
    campaign.ok("w1", one)
    campaign.fail("w1", two)
    campaign.queue.cancel([4])
    snapshot = campaign.queue.snapshot()
    assert snapshot.counts == {
        State.SCHEDULED: 1, State.PENDING: 2, State.RUNNING: 1,
        State.SUCCEEDED: 1, State.FAILED: 1, State.CANCELLED: 1,
    }  # fmt: skip
    assert snapshot.outstanding == 4
    found = list(campaign.queue.outstanding())
    assert sorted(found) == [
        (3, State.RUNNING, "w1"), (5, State.PENDING, ""), (6, State.PENDING, ""), (7, State.SCHEDULED, ""),
    ]  # fmt: skip


def test_the_result_stream_is_read_from_a_cursor(campaign):
    campaign.add(3)
    campaign.settle("w1", *(settlement(token) for token in campaign.lease(room=3)))
    first, second, third = campaign.results()
    assert campaign.queue.read_after(first.entry) == [second, third]
    assert campaign.queue.read_after(first.entry, count=1) == [second]
    assert campaign.queue.newest(2) == [third, second]


# hire


def test_a_guard_knows_its_own_token_and_is_freed_by_no_other(campaign):
    queue = campaign.queue
    assert queue.take_hiring("mine", 60_000)
    assert queue.take_hiring("mine", 60_000), "a repeat after a lost reply"
    assert not queue.take_hiring("other", 60_000)
    queue.free_hiring("other")
    assert not queue.take_hiring("other", 60_000)
    queue.free_hiring("mine")
    queue.free_hiring("mine")
    assert queue.take_hiring("other", 1)
    wait_until(lambda: queue.take_hiring("mine", 60_000))


def test_a_damaged_guard_is_nobodys(campaign):
    campaign.client.lpush(campaign.queue.keys.hiring, "x")
    assert campaign.queue.take_hiring("mine", 60_000)


# enlist


def test_a_driver_is_told_what_others_have_noted_before(campaign):
    queue = campaign.queue
    first = {"m 1 0.5": "old"}
    assert queue.enlist_driver("m 1 0.5", "old", 60, anew=False) == {}
    assert queue.enlist_driver("m 1 0.5", "old", 60, anew=False) == first, "a repeat after a lost reply"
    assert queue.enlist_driver("m 2 0.5", "new", 60, anew=False) == first
    assert queue.drivers() == {"m 1 0.5": "old", "m 2 0.5": "new"}
    assert 0 < campaign.client.ttl(queue.keys.drivers) <= 60
    queue.delist_drivers(["m 1 0.5", "nobody"])
    assert queue.drivers() == {"m 2 0.5": "new"}
    queue.delist_drivers([])


def test_a_damaged_register_of_drivers_is_made_anew(campaign):
    queue = campaign.queue
    campaign.client.lpush(queue.keys.drivers, "x")
    assert queue.drivers() == {}
    queue.delist_drivers(["m 1 0.5"])
    assert queue.enlist_driver("m 1 0.5", "old", 60, anew=False) == {}
    assert queue.drivers() == {"m 1 0.5": "old"}


def test_what_a_driver_has_noted_long_ago_is_forgotten(campaign):
    queue, client = campaign.queue, campaign.client
    queue.enlist_driver("m 1 0.5", "old", 60, anew=True)
    client.hset(queue.keys.drivers, "m 2 0.5", f"older {campaign.queue.snapshot().now_ms - 61_000}")
    client.hset(queue.keys.drivers, "m 3 0.5", "damaged")
    assert queue.enlist_driver("m 1 0.5", "old", 60, anew=True) == {"m 1 0.5": "old"}
    assert queue.drivers() == {"m 1 0.5": "old"}


def test_a_note_that_stands_already_writes_nothing(campaign):
    queue, client = campaign.queue, campaign.client
    queue.enlist_driver("m 1 0.5", "old", 60, anew=True)
    client.persist(queue.keys.drivers)
    queue.enlist_driver("m 1 0.5", "old", 60, anew=False)
    assert client.ttl(queue.keys.drivers) == -1
    queue.enlist_driver("m 1 0.5", "old", 60, anew=True)
    assert 0 < client.ttl(queue.keys.drivers) <= 60


# purge


def every_move(queue: CampaignCommands):
    one = [submission({"x": 1})]
    settling = {"lease_ms": 1000, "request": "1", "room": 1, "prefetch": 0, "now": 0.0}
    return [
        lambda: queue.enqueue("d", 1, one, reuse=False),
        lambda: queue.enqueue("d", 1, one, reuse=True),
        lambda: queue.settle("w1", [], **settling),
        lambda: queue.extend("w1", 1000, []),
        lambda: queue.release("w1", []),
        lambda: queue.reclaim(grace_ms=0),
        lambda: queue.cancel([1]),
        lambda: queue.retry([1]),
        lambda: queue.pause(True),
        lambda: queue.take_hiring("t", 1000),
        lambda: queue.enlist_driver("m 1 0.5", "digest", 60, anew=True),
        queue.standing,
    ]


def test_purge_deletes_everything_and_everyone_is_told(campaign):
    campaign.add(5)
    one, two = campaign.lease(room=2)
    campaign.settle("w1", settlement(one, output=b"o"), settlement(two, Outcome.ERROR))
    campaign.lease("w2", room=1)
    campaign.queue.enlist_driver("m 1 0.5", "digest", 60, anew=True)
    campaign.queue.purge()
    assert list(campaign.client.scan_iter(f"qe:\\{{{campaign.name}}}:*")) == []
    assert campaign.client.zscore("qe:campaigns", campaign.name) is None
    assert all(map(is_gone, every_move(campaign.queue)))
    with pytest.raises(CampaignNotFoundError):
        campaign.queue.snapshot()
    campaign.queue.purge()
    assert list(campaign.client.scan_iter(f"qe:\\{{{campaign.name}}}:*")) == []


def test_an_empty_campaign_is_purged_too(campaign):
    campaign.queue.purge()
    assert is_gone(campaign.queue.standing)


def test_the_same_name_opened_again_is_another_campaign(campaign):
    campaign.add(2)
    (token,) = campaign.lease()
    campaign.queue.purge()
    anew = LuaCampaign(campaign.link, campaign.name)
    assert anew.queue.uid != campaign.queue.uid
    anew.add(1)
    assert all(map(is_gone, every_move(campaign.queue)))
    campaign.queue.purge()
    assert is_gone(lambda: campaign.ok("w1", token))
    assert anew.count(State.PENDING) == 1


# damage: what a stray hand has done to one job must not stop the others


def damage(campaign, column, job, value):
    key = campaign.queue.keys.column(column)
    if value is None:
        campaign.client.hdel(key, job)
    else:
        campaign.client.hset(key, job, value)


@pytest.mark.parametrize("value", [None, "", "garbage", b"\xff\x00"])
def test_a_damaged_config_is_leased_and_fails_like_any_other(campaign, value):
    queue = campaign.queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    campaign.add(2)
    damage(campaign, "configs", 1, value)
    settled = campaign.settle("w1", room=2)
    assert tokens(settled) == [(1, 1), (2, 1)]
    assert settled.leases[0].config == b""
    assert campaign.fail("w1", (1, 1)) == "recorded"
    assert queue.retry([1]) == [1]
    assert tokens(campaign.settle("w1", room=1)) == [(1, 2)]
    assert queue.snapshot().conserved


@pytest.mark.parametrize("value", ["", "garbage", b"\xff\x00", "1 2", "-1 0 0 0 0"])
def test_a_damaged_history_wedges_nothing(make_campaign, value):
    campaign = make_campaign(max_attempts=2, retry_first_ms=0)
    queue = campaign.queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    campaign.add(5)
    for job in range(1, 6):
        damage(campaign, "attempts", job, value)
    leased = campaign.lease(room=3)
    assert len(leased) == 3
    assert campaign.fail("w1", leased[0]) == "again"
    assert campaign.ok("w1", leased[1]) == "recorded"
    assert campaign.die("w1") == [3]
    damage(campaign, "attempts", 4, value)
    assert queue.cancel([4]) == [4]
    damage(campaign, "attempts", 4, value)
    assert queue.retry([4]) == [4]
    (token,) = campaign.lease()
    assert queue.release("w1", [Release(*token, "drain")]) == 1
    assert queue.snapshot().conserved


@pytest.mark.parametrize("value", ["", "garbage", b"\xff\x00", "1"])
def test_a_damaged_lease_wedges_nothing(campaign, value):
    queue = campaign.queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    campaign.add(4)
    one, two, three = tokens(campaign.settle("w1", room=3, request="50"))
    for job in (1, 2, 3):
        damage(campaign, "held:w1", job, value)
    assert campaign.settle("w1", room=3, request="50").leases == []
    assert queue.extend("w1", LEASE_MS, [one, two, three]).taken == [1, 2, 3]
    assert campaign.ok("w1", one) == "recorded"
    assert queue.cancel([2]) == [2]
    assert campaign.die("w1") == [3]
    assert queue.snapshot().conserved
    assert campaign.lease("w2", room=2)


@pytest.mark.parametrize(
    "missing", ["max_attempts", "max_losses", "retry_first_ms", "retry_factor", "retry_max_ms"]
)
def test_a_missing_option_wedges_nothing(make_campaign, missing):
    campaign = make_campaign(max_attempts=2)
    campaign.add(3)
    one, two, _ = campaign.lease(room=3)
    campaign.client.hdel(campaign.queue.keys.meta, missing)
    assert campaign.fail("w1", one) in ("again", "recorded")
    assert campaign.fail("w1", two, Outcome.LOST) in ("again", "recorded")
    assert campaign.die("w1") == [3]


def test_opening_with_another_limit_leaves_a_marker(make_campaign):
    campaign = make_campaign(most_running=1)
    campaign.add(2)
    campaign.lease()
    fields = FIELDS | {"most_running": ""}
    assert campaign.wakes(
        lambda: CampaignCommands.open(campaign.link, campaign.name, fields, accept_change=False)
    )
