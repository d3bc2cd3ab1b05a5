"""Jobs that take several slots, and a campaign's limit on what runs: who gets what, and who is woken."""

from __future__ import annotations

import pytest

from queue_eval.model.moves import Release, Settled
from queue_eval.model.shape import Shape
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import ids, settlement, tokens


def leased(settled: Settled) -> list[tuple[int, int]]:
    """(job, slots) of each lease."""
    return [(lease.id, lease.slots) for lease in settled.leases]


def age_reservations(campaign, by_ms):
    key = campaign.queue.keys.column("reserving")
    for worker, since in campaign.client.zrange(key, 0, -1, withscores=True):
        campaign.client.zadd(key, {worker: since - by_ms})


def test_a_wide_job_is_leased_with_its_slots(campaign):
    campaign.add(2, slots=2)
    assert campaign.count(State.PENDING) == 2
    settled = campaign.settle("w1", room=4, slots=4)
    assert leased(settled) == [(1, 2), (2, 2)]
    assert all(lease.started for lease in settled.leases)
    assert (settled.reserved_slots, settled.has_other_wide_jobs) == (0, False)


def test_a_repeated_request_gets_the_same_slots(campaign):
    campaign.add(1, slots=3)
    campaign.add(2)
    first = campaign.settle("w1", room=4, slots=4, request="a-1")
    again = campaign.settle("w1", room=4, slots=4, request="a-1")
    assert sorted(leased(again)) == sorted(leased(first)) == [(1, 3), (2, 1)]


def test_a_narrow_worker_never_sees_wide_jobs(campaign):
    campaign.add(1, slots=2)
    campaign.add(2)
    settled = campaign.settle("narrow", room=1, slots=1)
    assert leased(settled) == [(2, 1)]
    assert settled.has_other_wide_jobs
    assert not settled.reserved_slots


def test_order_is_kept_among_widths(campaign):
    campaign.add(1)
    campaign.add(1, slots=2)
    campaign.add(1, priority=1, slots=3)
    campaign.add(2)
    assert leased(campaign.settle("w1", room=4, slots=8)) == [(1, 1), (3, 3)]
    assert sorted(leased(campaign.settle("w1", room=8, slots=8))) == [(2, 2), (4, 1), (5, 1)]
    # Had there been less room, then by priority and id.
    campaign.add(1)
    campaign.add(1, slots=2)
    campaign.add(1)
    assert leased(campaign.settle("w2", room=3, slots=8)) == [(6, 1), (7, 2)]


@pytest.mark.parametrize("priority", [0, 32767, -32767])
def test_scores_are_compared_exactly(campaign, priority):
    for _ in range(3):
        campaign.add(1, priority=priority)
        campaign.add(1, priority=priority, slots=2)
    order = [job for _ in range(4) for job, _ in leased(campaign.settle("w1", room=3, slots=3))]
    assert order == [1, 2, 3, 4, 5, 6]


def test_a_wide_job_is_not_overtaken_by_narrow_ones(campaign):
    campaign.add(2)
    running = campaign.lease("w1", room=2, slots=2)
    campaign.add(1, slots=2)
    campaign.add(5)
    half = campaign.settle("w1", settlement(running[0]), room=1, slots=2)
    assert (leased(half), half.reserved_slots) == ([], 2)
    whole = campaign.settle("w1", settlement(running[1]), room=2, slots=2)
    assert (leased(whole), whole.reserved_slots) == ([(3, 2)], 0)


def test_a_full_worker_prefetches_nothing_behind_a_wide_job(campaign):
    campaign.add(1, slots=2)
    campaign.add(5)
    settled = campaign.settle("w1", room=0, prefetch=3, slots=2)
    assert (leased(settled), settled.reserved_slots) == ([], 2)


def test_what_stands_before_a_wide_job_may_be_prefetched(campaign):
    campaign.add(3)
    campaign.add(1, slots=2)
    settled = campaign.settle("w1", room=1, prefetch=2, slots=2)
    assert [(lease.id, lease.started) for lease in settled.leases] == [(1, True), (2, False), (3, False)]


def test_nothing_is_prefetched_behind_a_wide_job_that_begins(campaign):
    campaign.add(1, slots=2)
    campaign.add(5)
    assert leased(campaign.settle("w1", room=2, prefetch=3, slots=2)) == [(1, 2)]


def test_one_worker_reserves_for_one_wide_job(campaign):
    campaign.add(1, slots=2)
    campaign.add(4)
    assert campaign.settle("w1", room=1, slots=2).reserved_slots == 2
    other = campaign.settle("w2", room=1, slots=2)
    assert (leased(other), other.reserved_slots, other.has_other_wide_jobs) == ([(2, 1)], 0, True)
    assert campaign.settle("w1", room=1, slots=2).reserved_slots == 2
    # A worker that has the room takes it, whoever reserves.
    assert leased(campaign.settle("w3", room=2, slots=2)) == [(1, 2)]
    assert leased(campaign.settle("w1", room=1, slots=2)) == [(3, 1)]


def test_as_many_reserve_as_wide_jobs_are_first(campaign):
    campaign.add(2, slots=2)
    campaign.add(1)
    campaign.add(1, slots=2)
    assert [campaign.settle(w, room=1, slots=2).reserved_slots for w in ("w1", "w2", "w3")] == [2, 2, 0]


def test_a_reservation_keeps_others_away_for_a_while_only(campaign):
    campaign.add(1, slots=2)
    campaign.add(4)
    assert campaign.settle("w1", room=1, slots=2).reserved_slots == 2
    age_reservations(campaign, 3000)
    assert campaign.settle("w2", room=1, slots=2).reserved_slots == 2
    assert campaign.settle("w1", room=1, slots=2).reserved_slots == 2, "who reserves goes on"


def test_a_reservation_ends_with_its_worker(campaign):
    campaign.add(1, slots=2)
    campaign.add(4)
    campaign.settle("w1", room=1, slots=2)
    campaign.queue.release("w1", [], leave=True)
    assert campaign.settle("w2", room=1, slots=2).reserved_slots == 2
    campaign.die("w2")
    assert campaign.settle("w3", room=1, slots=2).reserved_slots == 2


@pytest.mark.parametrize("end", ["release", "reclaim", "lost", "retry", "due"])
def test_wide_jobs_come_back_as_wide(make_campaign, end):
    campaign = make_campaign(max_attempts=1, max_losses=3)
    campaign.add(1, slots=2, delay_ms=60_000 if end == "due" else 0)
    if end == "due":
        assert campaign.count(State.SCHEDULED) == 1
        campaign.make_due()
    else:
        (token,) = campaign.lease("w1", room=2, slots=2)
        if end == "release":
            campaign.queue.release("w1", [Release(*token, "drain")])
        elif end == "reclaim":
            campaign.die("w1")
        elif end == "lost":
            assert campaign.fail("w1", token, Outcome.LOST) == "again"
        else:
            campaign.fail("w1", token)
            campaign.queue.retry([1])
    assert not campaign.lease("narrow", room=1, slots=1)
    assert leased(campaign.settle("w2", room=2, slots=2)) == [(1, 2)]


def test_a_stale_success_withdraws_a_wide_job(campaign):
    campaign.add(1, slots=2)
    (token,) = campaign.lease("w1", room=2, slots=2)
    campaign.die("w1")
    assert campaign.ok("w1", token) == "recorded"
    assert campaign.columns().by_shape.get("2", []) == []


def test_wide_jobs_are_cancelled_and_purged(campaign):
    campaign.add(3, slots=2)
    assert campaign.queue.cancel([2]) == [2]
    assert campaign.queue.cancel_up_to(3) == 2
    campaign.add(1, slots=5)
    campaign.queue.purge()
    prefix = campaign.queue.keys.column("").replace("{", "\\{")
    assert list(campaign.client.scan_iter(prefix + "*")) == []


def test_the_pending_shapes(campaign):
    assert campaign.queue.pending_shapes() == []
    campaign.add(1, slots=7)
    campaign.add(1, slots=2)
    assert campaign.queue.pending_shapes() == [Shape(2), Shape(7)]
    assert campaign.queue.shapes_of([1, 2, 3]) == [Shape(7), Shape(2), Shape(1)]
    campaign.queue.cancel([1])
    assert campaign.queue.pending_shapes() == [Shape(2)]


def test_reuse_joins_a_job_as_it_is(campaign):
    campaign.enqueue({"x": 1}, reuse=True, slots=2)
    again = campaign.enqueue({"x": 1}, reuse=True, slots=4)
    assert [job.id for job in again.jobs] == [1]
    assert campaign.queue.shapes_of([1]) == [Shape(2)]


def test_wide_jobs_have_a_marker_of_their_own(campaign):
    assert campaign.wakes(lambda: campaign.add(2, slots=2), wide=True)
    assert not campaign.take_marker()
    # What one takes is put back while there is more.
    assert campaign.wakes(lambda: campaign.lease("w1", room=2, slots=2), wide=True)
    assert not campaign.wakes(lambda: campaign.lease("w1", room=2, slots=2), wide=True)
    campaign.add(1, slots=2)
    campaign.add(1)
    assert campaign.wakes(lambda: campaign.settle("w2", room=0, slots=2), wide=True), "it is given back"
    assert campaign.wakes(lambda: campaign.settle("w2", room=1, slots=2), wide=True), "who reserves, too"
    assert campaign.wakes(lambda: campaign.queue.pause(False), wide=True)
    assert campaign.wakes(lambda: campaign.queue.release("w2", [], leave=True), wide=True)


# A limit on what runs


def test_no_more_is_held_than_the_campaign_allows(make_campaign):
    campaign = make_campaign(most_running=3)
    campaign.add(10)
    first = campaign.lease("w1", room=2)
    second = campaign.lease("w2", room=5, prefetch=5)
    assert (ids(first), ids(second)) == ([1, 2], [3])
    assert campaign.lease("w3", room=1) == []
    campaign.ok("w1", first[0])
    assert ids(campaign.lease("w3", room=4)) == [4]


def test_the_limit_counts_jobs_not_slots(make_campaign):
    campaign = make_campaign(most_running=2)
    campaign.add(3, slots=2)
    assert leased(campaign.settle("w1", room=8, slots=8)) == [(1, 2), (2, 2)]


def test_no_marker_is_left_at_the_limit_and_one_when_something_ends(make_campaign):
    campaign = make_campaign(most_running=1, max_attempts=2)
    campaign.add(3)
    assert not campaign.wakes(lambda: campaign.lease("w1", room=1, request="w1-1"))
    assert not campaign.wakes(lambda: campaign.lease("w2", room=1))
    (token,) = tokens(campaign.settle("w1", room=1, request="w1-1"))
    assert campaign.wakes(lambda: campaign.settle("w1", settlement(token))), "w1 has no room for another"
    for end in (
        lambda held: campaign.queue.cancel([held[0]]),
        lambda held: campaign.queue.release("w1", [Release(*held, "drain")]),
        lambda held: campaign.settle("w1", settlement(held), lease_ms=0),
    ):
        campaign.queue.repeating = False
        (held,) = campaign.lease("w1", room=1)
        assert campaign.wakes(lambda end=end, held=held: end(held))
        campaign.add(1)


def test_opening_again_changes_the_limit(make_campaign):
    campaign = make_campaign(most_running=1)
    campaign.add(3)
    assert len(campaign.lease("w1", room=3)) == 1
    campaign.client.hset(campaign.queue.keys.meta, "most_running", "")
    assert len(campaign.lease("w1", room=3)) == 2


def test_nothing_waits_on_a_worker_behind_a_wide_job_whatever_comes_next(campaign):
    campaign.add(1, slots=2)
    campaign.add(2)
    campaign.add(1, slots=3)
    settled = campaign.settle("w1", room=2, prefetch=2, slots=3)
    assert [(lease.id, lease.started) for lease in settled.leases] == [(1, True)]
    assert campaign.lease("w2", room=2) == [(2, 1), (3, 1)]
