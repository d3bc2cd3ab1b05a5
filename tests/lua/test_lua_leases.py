"""extend, release, reclaim: leases live, are given back, and run out."""

from __future__ import annotations

import time

import pytest

from queue_eval.errors import CampaignNotFoundError
from queue_eval.model.moves import Release
from queue_eval.model.states import Outcome, State
from queue_eval.server.lifecycle import start_server, stop_server
from tests.support.lua_campaign import LEASE_MS, LuaCampaign, ids, link_to, settlement

# extend


def test_extend_moves_the_expiry_and_names_what_became_of_the_tokens(campaign):
    campaign.add(5)
    leased = campaign.lease(room=4)
    campaign.expire("w1")
    campaign.queue.cancel([1])
    campaign.queue.release("w1", [Release(*leased[1], "drain")])
    campaign.queue.release("w1", [Release(*leased[2], "drain")])
    assert campaign.lease("w2", room=1) == [(2, 2)]
    extended = campaign.queue.extend("w1", LEASE_MS, [*leased, (99, 1)])
    assert (extended.finished, extended.taken) == ([1], [2, 3, 99])
    snapshot = campaign.queue.snapshot()
    expiry_ms = {worker.worker: worker.expiry_ms for worker in snapshot.workers}["w1"]
    assert expiry_ms - snapshot.now_ms == pytest.approx(LEASE_MS, abs=1000)


def test_an_older_token_of_a_job_held_again_is_taken(campaign):
    campaign.add(1)
    (stale,) = campaign.lease()
    campaign.die("w1")
    (newer,) = campaign.lease()
    assert campaign.queue.extend("w1", LEASE_MS, [stale]).taken == [1]
    assert campaign.queue.extend("w1", LEASE_MS, [newer]).taken == []


def test_extending_10_000_tokens(campaign):
    campaign.queue.repeating = False
    everything = [(job, 1) for job in range(1, 10_001)]
    assert len(campaign.queue.extend("w1", LEASE_MS, everything).taken) == 10_000


# release


def test_release_gives_back_without_cost_and_in_the_original_order(campaign):
    campaign.add(4)
    high = campaign.add(1, priority=1)
    leased = campaign.lease(room=2, prefetch=2)
    assert ids(leased) == [*high, 1, 2, 3]
    begun = [Release(*token, "drain" if ids([token]) == [1] else "") for token in leased]
    campaign.queue.repeating = False
    assert campaign.queue.release("w1", begun) == 4
    assert campaign.queue.release("w1", begun) == 0
    again = campaign.lease("w2", room=5)
    assert again == [(high[0], 2), (1, 2), (2, 2), (3, 2), (4, 1)]
    campaign.settle("w2", *(settlement(token) for token in again))
    executions = {entry.id: entry.attempts for entry in campaign.results()}
    assert executions == {high[0]: 1, 1: 1, 2: 1, 3: 1, 4: 1}, "what is given back is not charged"
    releases = {entry.id: entry.releases for entry in campaign.results()}
    assert releases == {high[0]: 0, 1: 1, 2: 0, 3: 0, 4: 0}, "only job 1 was given back for a reason"


def test_releases_do_not_count_as_failures_or_losses(make_campaign):
    campaign = make_campaign(max_attempts=1, max_losses=1)
    campaign.add(1)
    for _ in range(3):
        campaign.queue.release("w1", [Release(*campaign.lease()[0], "drain")])
    assert campaign.history(1) == "3 0 0 3 0 3"
    assert campaign.ok("w1", campaign.lease()[0]) == "recorded"
    assert (campaign.results()[0].attempts, campaign.results()[0].releases) == (1, 3)
    assert [(one["cause"], one["body"]) for one in campaign.queue.failures(1)] == [("released", "drain")] * 3


def test_a_foreign_or_old_token_is_not_released(campaign):
    campaign.add(1)
    (stale,) = campaign.lease("w1")
    campaign.queue.release("w1", [Release(*stale)])
    (newer,) = campaign.lease("w2")
    assert campaign.queue.release("w1", [Release(*stale)]) == 0
    assert campaign.queue.release("w1", [Release(*newer)]) == 0
    assert campaign.queue.release("w2", [Release(*stale)]) == 0
    assert campaign.state(1) == State.RUNNING


def test_leave_ends_the_attendance_when_nothing_is_held(campaign):
    campaign.add(2)
    one, two = campaign.lease(room=2)
    campaign.queue.release("w1", [Release(*one)], leave=True)
    assert len(campaign.queue.snapshot().workers) == 1, "it still holds one"
    campaign.queue.release("w1", [Release(*two)], leave=True)
    assert campaign.queue.snapshot().workers == []


def test_release_leaves_a_marker(campaign):
    campaign.add(1)
    (token,) = campaign.lease()
    assert campaign.wakes(lambda: campaign.queue.release("w1", [Release(*token)]))


def test_a_leaving_worker_hands_the_marker_on(campaign):
    campaign.settle("w1")
    assert not campaign.wakes(lambda: campaign.queue.release("w1", [], leave=True)), "there is no work"
    campaign.add(1)
    assert campaign.wakes(lambda: campaign.queue.release("w1", [], leave=True))
    campaign.queue.cancel([1])
    campaign.add(1, delay_ms=60_000)
    assert campaign.wakes(lambda: campaign.queue.release("w1", [], leave=True)), (
        "it alone knew when it is due"
    )


# reclaim


def test_nothing_is_reclaimed_before_the_lease_expires(campaign):
    assert campaign.queue.reclaim(grace_ms=0).next_expiry_ms is None, "nobody attends"
    campaign.add(1)
    campaign.lease()
    reclaimed = campaign.queue.reclaim(grace_ms=0)
    assert (reclaimed.ids, reclaimed.more) == ([], False)
    assert reclaimed.next_expiry_ms == campaign.queue.snapshot().workers[0].expiry_ms


def test_a_short_lease_runs_out_by_the_servers_clock(campaign):
    campaign.add(1)
    campaign.settle("w1", room=1, lease_ms=2)
    deadline = time.monotonic() + 10
    while not (found := campaign.queue.reclaim(grace_ms=0).ids):
        assert time.monotonic() < deadline
    assert found == [1]


def test_what_had_begun_is_lost_what_was_prefetched_is_suspect(campaign):
    campaign.add(3)
    campaign.lease(room=1, prefetch=2)
    assert sorted(campaign.die("w1")) == [1, 2, 3]
    assert [campaign.history(job) for job in (1, 2, 3)] == ["1 0 1 0 0", "1 0 0 1 1", "1 0 0 1 1"]
    assert campaign.queue.snapshot().workers == []
    assert "w1" in campaign.queue.failures(1)[0]["body"]
    assert campaign.queue.failures(2) == []


def test_reclaimed_jobs_keep_their_order(campaign):
    campaign.add(4)
    campaign.lease("w1", room=2)
    campaign.lease("w2", room=1)
    campaign.die("w2")
    campaign.die("w1")
    assert campaign.lease("w3", room=4) == [(1, 2), (2, 2), (3, 2), (4, 1)]


def test_a_suspect_job_only_ever_starts_at_once(campaign):
    campaign.add(4)
    campaign.lease(prefetch=1, room=0)
    campaign.die("w1")
    assert campaign.lease("w2", room=0, prefetch=2) == [(2, 1)], "passed over, not given"
    settled = campaign.settle("w2", room=1, prefetch=1)
    assert [(lease.id, lease.attempt, lease.started) for lease in settled.leases] == [
        (1, 2, True), (3, 1, False),
    ]  # fmt: skip
    campaign.die("w2")
    assert campaign.history(1) == "2 0 1 1 0", "this death was its own; it is no longer suspect"


def test_suspects_beyond_the_room_wait_for_the_next(campaign):
    campaign.add(3)
    campaign.lease(room=0, prefetch=3)
    campaign.die("w1")
    assert campaign.lease("w2", room=1, prefetch=5) == [(1, 2)]
    assert campaign.take_marker(), "other workers may start the rest"
    assert campaign.lease("w3", room=2) == [(2, 2), (3, 2)]


def test_prefetched_and_reclaimed_costs_no_execution(campaign):
    campaign.add(1)
    for _ in range(5):  # more often than losses are allowed
        campaign.client.hdel(campaign.queue.keys.column("attempts"), "1")
        campaign.lease(room=0, prefetch=1)
        campaign.die("w1")
    token = campaign.lease()[0]
    campaign.ok("w1", token)
    assert campaign.results()[0].attempts == 1


def test_too_many_deaths_are_quarantined(make_campaign):
    campaign = make_campaign(max_losses=2, max_attempts=1)
    campaign.add(1)
    for worker in ("w1", "w2"):
        campaign.lease(worker)
        campaign.die(worker)
    (entry,) = campaign.results()
    assert (entry.state, entry.cause, entry.attempts, entry.worker) == (State.FAILED, "lost", 2, "w2")
    assert campaign.queue.failed_ids() == [1]


def test_a_worker_known_to_be_dead_is_reclaimed_at_once(campaign):
    campaign.add(2)
    campaign.lease("w1")
    campaign.lease("w2")
    reclaimed = campaign.queue.reclaim(grace_ms=LEASE_MS, worker="w1")
    assert (reclaimed.ids, reclaimed.more) == ([1], False)
    assert [worker.worker for worker in campaign.queue.snapshot().workers] == ["w2"]
    assert campaign.queue.reclaim(grace_ms=0, worker="w1").ids == []
    assert campaign.queue.reclaim(grace_ms=0, worker="unknown").ids == []


@pytest.mark.parametrize("count", [450, 6000])
def test_reclaim_goes_by_pages(campaign, count):
    campaign.queue.repeating = False
    campaign.add(count)
    leased = 0
    while leased < count:
        leased += len(campaign.lease(room=2000))
    campaign.expire("w1")
    found: list[int] = []
    page = campaign.queue.reclaim(grace_ms=0)
    while page.ids:
        assert page.more or len(found) + len(page.ids) == count
        found += page.ids
        page = campaign.queue.reclaim(grace_ms=0)
    assert sorted(found) == list(range(1, count + 1))
    assert not page.more


def test_expired_workers_are_reclaimed_one_after_the_other(campaign):
    campaign.add(2)
    for worker in ("w1", "w2"):
        campaign.lease(worker)
    campaign.settle("idle")
    for worker in ("w1", "w2", "idle"):
        campaign.expire(worker)
    pages = [campaign.queue.reclaim(grace_ms=0) for _ in range(4)]
    assert sorted(job for page in pages for job in page.ids) == [1, 2]
    assert [page.more for page in pages] == [True, True, True, False]
    assert campaign.queue.snapshot().workers == []


def test_reclaim_leaves_a_marker_also_for_work_that_only_waits(campaign):
    campaign.add(1)
    campaign.lease()
    assert campaign.wakes(lambda: campaign.die("w1"))
    campaign.queue.cancel([1])
    campaign.add(1, delay_ms=60_000)
    campaign.settle("w1")
    assert campaign.wakes(lambda: campaign.die("w1")), "the dead one alone knew when it is due"


def test_a_reclaimed_worker_that_comes_back_attends_again(campaign):
    campaign.add(1)
    (token,) = campaign.lease()
    campaign.die("w1")
    extended = campaign.queue.extend("w1", LEASE_MS, [token])
    assert (extended.finished, extended.taken) == ([], [1])
    assert campaign.lease() == [(1, 2)]


def test_a_new_campaign_needs_no_grace(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.expire("w1")
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == [1]


def test_after_a_restart_of_the_server_reclaim_holds_off_one_grace(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.expire("w1")
    campaign.client.hset(campaign.queue.keys.meta, "server_run", "another")
    held_off = campaign.queue.reclaim(grace_ms=LEASE_MS)
    assert held_off.ids == []
    assert held_off.next_expiry_ms is not None
    assert held_off.next_expiry_ms - campaign.queue.snapshot().now_ms == pytest.approx(LEASE_MS, abs=1000)
    assert campaign.queue.reclaim(grace_ms=LEASE_MS) == held_off
    assert campaign.state(1) == State.RUNNING
    campaign.client.hset(campaign.queue.keys.meta, "reclaim_from", 0)
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == [1]


def test_after_the_server_was_frozen_reclaim_holds_off_one_grace(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.expire("w1")
    long_ago = campaign.queue.snapshot().now_ms - LEASE_MS
    campaign.client.hset(campaign.queue.keys.meta, "reclaim_seen", long_ago)
    held_off = campaign.queue.reclaim(grace_ms=LEASE_MS)
    assert held_off.ids == []
    assert campaign.queue.reclaim(grace_ms=LEASE_MS) == held_off, "until the grace is over"
    campaign.client.hset(campaign.queue.keys.meta, "reclaim_from", 0)
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == [1]


def test_a_server_that_was_frozen_before_anybody_has_asked_was_away_too(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.expire("w1")
    made_at, seen = campaign.client.hmget(campaign.queue.keys.meta, "created_ms", "reclaim_seen")
    assert seen == made_at
    campaign.client.hincrby(campaign.queue.keys.meta, "reclaim_seen", -LEASE_MS)
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == []


@pytest.mark.parametrize("sign", [{"server_run": "another"}, {"reclaim_seen": 1}])
def test_a_lease_that_expires_just_after_the_server_was_away_has_its_grace_too(campaign, sign):
    campaign.add(1)
    campaign.lease()
    campaign.client.hset(campaign.queue.keys.meta, mapping=sign)
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == [], "it has not expired"
    campaign.expire("w1")
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == []
    assert campaign.queue.reclaim(grace_ms=0).ids == [1], "whose leases are short need not wait so long"


def test_a_worker_that_dies_long_after_a_restart_of_the_server_has_no_grace(campaign):
    campaign.add(1)
    campaign.lease()
    campaign.client.hset(campaign.queue.keys.meta, "server_run", "another")
    campaign.queue.reclaim(grace_ms=LEASE_MS)
    campaign.client.hset(campaign.queue.keys.meta, "reclaim_from", 0)
    campaign.expire("w1")
    assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == [1]


def test_a_real_restart_forgets_nothing_and_gives_workers_time(tmp_path_factory):
    home = tmp_path_factory.mktemp("h") / "home"
    try:
        campaign = LuaCampaign(link_to(start_server(home, keep=True)), "restarted")
        campaign.add(3)
        one, two = campaign.lease(room=2)
        campaign.expire("w1")
        stop_server(home)
        start_server(home, keep=True)
        assert campaign.queue.reclaim(grace_ms=LEASE_MS).ids == []
        assert campaign.queue.extend("w1", LEASE_MS, [one, two]).taken == []
        assert campaign.settle("w1", settlement(one)).verdicts == ["recorded"]
        assert campaign.fail("w1", two, Outcome.LOST) == "again"
        campaign.link.close()
    finally:
        stop_server(home)


def test_extend_names_what_the_worker_holds_without_knowing_it(campaign):
    campaign.add(3)
    known, *others = campaign.lease(room=3)
    assert sorted(campaign.queue.extend("w1", LEASE_MS, [known]).unknown) == sorted(others)
    assert campaign.queue.extend("w1", LEASE_MS, [known, *others]).unknown == []
    assert campaign.queue.extend("w1", LEASE_MS, [known, (99, 1)]).unknown == others


def test_extend_names_the_newer_attempt_that_the_worker_does_not_know(campaign):
    campaign.add(1)
    (old,) = campaign.lease()
    campaign.queue.release("w1", [Release(*old, "drain")])
    (new,) = campaign.lease()
    extended = campaign.queue.extend("w1", LEASE_MS, [old])
    assert (extended.taken, extended.unknown) == ([1], [new])


def test_a_load_is_noted_in_the_campaign_that_it_is_of(campaign):
    for _ in range(2):
        campaign.queue.note_load(3)
        assert campaign.queue.meta()["loaded"] == b"3"
    campaign.queue.purge()
    with pytest.raises(CampaignNotFoundError):
        campaign.queue.note_load(3)
    assert not campaign.link.client.exists(campaign.queue.keys.meta)
