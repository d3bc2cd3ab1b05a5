"""stop: jobs are asked to stop early; releases with a delay; successes that tell they were stopped."""

from __future__ import annotations

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Release, Stopped
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import LEASE_MS, is_gone, settlement


def notices(campaign) -> list[dict[bytes, bytes]]:
    return [
        fields
        for _, fields in campaign.client.xrange(keys.NOTICES)
        if fields.get(b"campaign") == campaign.name.encode() and fields[b"what"] == b"stop"
    ]


def test_only_jobs_that_have_begun_and_are_open_are_asked(make_campaign):
    campaign = make_campaign(max_attempts=2)
    campaign.add(8)
    leased = campaign.lease(room=6, prefetch=1)
    campaign.ok("w1", leased[0])
    campaign.fail("w1", leased[1])  # it waits for another attempt
    campaign.queue.cancel([3])
    campaign.queue.release("w1", [Release(4, 1, "drain"), Release(5, 1)])
    assert campaign.queue.stop([*range(1, 9), 99, 2]) == Stopped([2, 4, 6], [])
    assert campaign.queue.stops_of(range(1, 9)) == [False, True, False, True, False, True, False, False]


def test_the_workers_that_hold_them_are_told_in_one_notice(campaign):
    campaign.add(4)
    campaign.lease("w1", room=2)
    campaign.lease("w2", room=1)
    campaign.lease("w3", room=1)
    campaign.queue.stop([1, 2, 3])
    assert notices(campaign) == [
        {b"what": b"stop", b"campaign": campaign.name.encode(), b"workers": b"w1 w2"}
    ]
    campaign.queue.stop([99])
    assert len(notices(campaign)) == 1, "nobody has to look"


def test_many_jobs_are_asked_in_pages_and_one_notice(campaign):
    campaign.queue.repeating = False
    campaign.add(2500)
    campaign.lease("w1", room=2000)
    campaign.lease("w2", room=500)
    assert campaign.queue.stop(range(1, 2501)).asked == [*range(1, 2501)]
    assert [notice[b"workers"] for notice in notices(campaign)] == [b"w1 w2"]


def test_who_looks_is_told(campaign):
    campaign.add(3)
    campaign.lease(room=3)
    campaign.told("w1", (1, 1), looks=True)
    campaign.told("w1", (2, 1), [(1, 0)])
    assert campaign.queue.stop([1, 2, 3]) == Stopped([1, 2, 3], [1])
    campaign.queue.release("w1", [Release(1, 1, "drain")])
    assert campaign.queue.stop([1]) == Stopped([1], []), "it waits"
    campaign.lease("w2")
    assert campaign.queue.stop([1]) == Stopped([1], []), "another attempt has not looked yet"


def test_the_first_request_counts(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.queue.stop([1])
    before = campaign.columns().stops
    campaign.queue.stop([1])
    assert campaign.columns().stops == before


def test_extend_tells_the_holder(campaign):
    campaign.add(3)
    leased = campaign.lease(room=3)
    assert campaign.queue.extend("w1", LEASE_MS, leased).stops == []
    campaign.queue.stop([1, 3])
    assert campaign.queue.extend("w1", LEASE_MS, leased).stops == [1, 3]
    assert campaign.queue.extend("w1", LEASE_MS, [(1, 9), (2, 1)]).stops == [], "not under that token"
    assert campaign.queue.extend("w2", LEASE_MS, [(1, 1)]).stops == []


def test_it_survives_the_worker_the_failure_and_the_release(make_campaign):
    campaign = make_campaign(max_attempts=3, retry_first_ms=0)
    campaign.add(1)
    campaign.lease()
    campaign.queue.stop([1])
    campaign.die("w1")
    (lease,) = campaign.settle("w1", room=1).leases
    assert lease.stop
    campaign.fail("w1", lease[:2])
    (lease,) = campaign.settle("w1", room=1).leases
    assert lease.stop
    campaign.queue.release("w1", [Release(lease.id, lease.attempt, "drain")])
    (lease,) = campaign.settle("w1", room=1).leases
    assert lease.stop


@pytest.mark.parametrize("end", ["ok", "error", "lost", "cancel"])
def test_the_end_of_the_job_ends_it(make_campaign, end):
    campaign = make_campaign(max_losses=1)
    campaign.add(1)
    campaign.lease()
    campaign.queue.stop([1])
    if end == "cancel":
        campaign.queue.cancel([1])
    else:
        campaign.settle("w1", settlement((1, 1), Outcome(end)))
    assert campaign.state(1).is_final
    assert campaign.queue.stops_of([1]) == [False]
    assert campaign.queue.stop([1]) == Stopped([], [])


def test_retry_ends_it(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.queue.stop([1])
    campaign.ok("w1", (1, 1))
    # An earlier version has settled it, and left the request behind.
    campaign.client.hset(campaign.queue.keys.column("stops"), "1", "5")
    unchecked = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    (entry,) = unchecked.read_after("0-0")
    assert unchecked.retry_results({1: entry.entry}) == [1]
    assert campaign.queue.stops_of([1]) == [False]


def test_stopped_is_a_success_that_says_so(campaign):
    campaign.add(3)
    one, two, three = campaign.settle("w1", room=3).leases
    campaign.queue.stop([1, 2])
    campaign.queue.release("w1", [Release(2, 1, "drain")])
    campaign.lease("w2")
    settled = campaign.settle(
        "w1", settlement(one, Outcome.STOPPED, b"0.5"), settlement(two, Outcome.STOPPED, b"0.6"),
        settlement(three, body=b"0.7"),
    )  # fmt: skip
    assert settled.verdicts == ["recorded"] * 3, "also from a stale attempt"
    ends = {entry.id: (entry.state, entry.cause, entry.body) for entry in campaign.results()}
    assert ends == {
        1: (State.SUCCEEDED, "stopped", b"0.5"), 2: (State.SUCCEEDED, "stopped", b"0.6"),
        3: (State.SUCCEEDED, "", b"0.7"),
    }  # fmt: skip


def test_a_stopped_success_wins_over_the_failure_of_a_newer_attempt(campaign):
    campaign.add(1)
    (stale,) = campaign.lease()
    campaign.die("w1")
    (newer,) = campaign.lease()
    settled = campaign.settle(
        "w1", settlement(newer, Outcome.ERROR), settlement(stale, Outcome.STOPPED, b"1")
    )
    assert settled.verdicts == ["finished", "recorded"]
    assert campaign.state(1) == State.SUCCEEDED


def test_a_stopped_success_of_another_config_is_foreign(campaign):
    campaign.add(1)
    (lease,) = campaign.settle("w1", room=1).leases
    campaign.die("w1")
    foreign = settlement(lease, Outcome.STOPPED)._replace(digest="0" * 16)
    assert campaign.settle("w1", foreign).verdicts == ["stale"]


def test_a_gone_campaign_stops_nothing(campaign):
    campaign.queue.purge()
    assert is_gone(lambda: campaign.queue.stop([1]))


# Releases with a delay


def test_a_delayed_release_waits_longer_each_time(make_campaign):
    campaign = make_campaign(retry_first_ms=1000, retry_factor=2, retry_max_ms=60_000)
    campaign.add(1)
    for times in range(1, 9):
        (token,) = campaign.lease()
        assert campaign.queue.release("w1", [Release(*token, "not yet", True)]) == 1
        assert campaign.state(1) == State.SCHEDULED
        expected = min(60_000, 1000 * 2 ** (times - 1))
        assert campaign.delay_of(1) == pytest.approx(expected, abs=500)
        campaign.make_due()
    assert campaign.history(1) == "8 0 0 8 0 8", "none is charged"
    assert campaign.queue.give_backs(8) == [(1, 8)]


def test_a_delayed_release_leaves_a_marker(campaign):
    campaign.add(1)
    (token,) = campaign.lease()
    assert campaign.wakes(lambda: campaign.queue.release("w1", [Release(*token, "not yet", True)])), (
        "somebody must learn when it is due"
    )


@pytest.mark.parametrize(("score", "times"), [("inf", 1), ("-inf", 1), ("-5", 1), ("4.5", 5), ("1e300", 1)])
def test_a_damaged_row_of_give_backs(campaign, score, times):
    campaign.add(1)
    (token,) = campaign.lease()
    campaign.queue.release("w1", [Release(*token, "drain")])
    campaign.client.zadd(campaign.queue.keys.column("give_backs"), {"1": score})
    (token,) = campaign.lease()
    campaign.queue.release("w1", [Release(*token, "not yet", True)])
    assert campaign.queue.give_backs(1) == [(1, times)]


def test_a_foreign_token_is_not_delayed(campaign):
    campaign.add(1)
    campaign.lease()
    assert campaign.queue.release("w1", [Release(1, 7, "not yet", True)]) == 0
    assert campaign.queue.release("w2", [Release(1, 1, "not yet", True)]) == 0
    assert campaign.state(1) == State.RUNNING
    assert campaign.queue.give_backs(1) == []


# What others pay


def test_a_campaign_without_any_of_this_makes_no_more_calls(campaign):
    """Of the extra columns nothing is read or written before somebody has reported, stopped or given back."""
    campaign.queue.repeating = False
    campaign.add(4)
    column = campaign.queue.keys.column
    for name in keys.EXTRA_COLUMNS:
        campaign.client.set(column(name), "any call would fail or delete this")
    queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)

    def settle(*settlements, room=0, request=""):
        return queue.settle(
            "w1", settlements, lease_ms=60_000, request=request, room=room, prefetch=0, now=1000.0
        )  # fmt: skip

    campaign.client.config_resetstat()
    settle(room=4, request="a-1")
    queue.extend("w1", 60_000, [(1, 1), (2, 1)])
    settle(settlement((1, 1)), settlement((2, 1), Outcome.ERROR))
    queue.release("w1", [Release(3, 1)])
    queue.reclaim(grace_ms=0, worker="w1")
    queue.cancel([3])
    there = {
        name: campaign.client.get(column(name))
        for name in keys.EXTRA_COLUMNS
    }
    assert set(there.values()) == {b"any call would fail or delete this"}
    stats = campaign.client.info("commandstats")
    # A script that the server does not know yet fails, and is sent.
    failed = {name for name, stat in stats.items() if stat.get("failed_calls")}
    assert failed <= {"cmdstat_evalsha"}
