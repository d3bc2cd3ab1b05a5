"""Jobs that ask for time: who gets them, who is woken, and which jobs ask for it by themselves."""

from __future__ import annotations

import itertools
import logging

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Release, Settled
from queue_eval.model.shape import Shape
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import LuaCampaign, Token, settlement

_lives = itertools.count()


def leased(settled: Settled) -> list[tuple[int, int]]:
    """(job, slots) of each lease."""
    return [(lease.id, lease.slots) for lease in settled.leases]


def names(campaign: LuaCampaign) -> list[str]:
    members = campaign.client.zrange(campaign.queue.keys.column("wide"), 0, -1)
    return [member.decode() for member in members]


# Who gets what


@pytest.mark.parametrize("left_s", [None, 60, 60.9, 3600])
def test_a_worker_with_the_time_runs_it(campaign, left_s):
    campaign.add(2, time_s=60)
    assert campaign.count(State.PENDING) == 2
    settled = campaign.settle("w1", room=2, left_s=left_s)
    assert leased(settled) == [(1, 1), (2, 1)]
    assert all(lease.started for lease in settled.leases)
    assert (settled.reserved_slots, settled.has_other_wide_jobs) == (0, False)


@pytest.mark.parametrize("left_s", [59.9, 1, 0, -5])
def test_a_worker_without_the_time_takes_what_is_behind(campaign, left_s):
    campaign.add(2, time_s=60)
    campaign.add(2)
    campaign.add(1, time_s=1)
    settled = campaign.settle("w1", room=4, left_s=left_s)
    assert leased(settled) == ([(3, 1), (4, 1), (5, 1)] if left_s >= 1 else [(3, 1), (4, 1)])
    assert settled.has_other_wide_jobs, "it leaves their marker to others"
    assert not settled.reserved_slots, "it lets no slot run free for them"
    assert leased(campaign.settle("w2", room=2))[:2] == [(1, 1), (2, 1)]


def test_order_is_kept_among_times_and_priorities(campaign):
    campaign.add(1)
    campaign.add(1, time_s=60)
    campaign.add(1, priority=1, time_s=30)
    campaign.add(1)
    campaign.add(1, priority=2)
    campaign.add(1, priority=1)
    order = [leased(campaign.settle("w1", room=1, left_s=60))[0][0] for _ in range(6)]
    assert order == [5, 3, 6, 1, 2, 4]


def test_order_is_kept_in_one_call(campaign):
    for _ in range(2):
        campaign.add(1)
        campaign.add(1, time_s=60)
    campaign.add(3)
    assert sorted(leased(campaign.settle("w1", room=5, left_s=60))) == [(i, 1) for i in range(1, 6)]


def test_widths_and_times_are_both_looked_at(campaign):
    campaign.add(1, slots=2, time_s=60)
    campaign.add(1, slots=2)
    campaign.add(1, time_s=60)
    narrow = campaign.settle("narrow", room=1, slots=1, left_s=100)
    assert leased(narrow) == [(3, 1)]
    short = campaign.settle("short", room=2, slots=2, left_s=30)
    assert leased(short) == [(2, 2)]
    assert narrow.has_other_wide_jobs
    assert short.has_other_wide_jobs
    assert leased(campaign.settle("both", room=2, slots=2, left_s=60)) == [(1, 2)]


def test_a_wide_job_with_the_time_gets_slots_reserved(campaign):
    campaign.add(1, slots=2, time_s=60)
    campaign.add(4)
    assert campaign.settle("w1", room=1, slots=2, left_s=59).reserved_slots == 0
    assert campaign.settle("w1", room=1, slots=2, left_s=60).reserved_slots == 2


def test_jobs_of_one_slot_take_no_part_in_reservations(campaign):
    """Two of them stand first: no second worker lets slots run free for the one wide job."""
    campaign.add(1, slots=2)
    campaign.add(2, time_s=60)
    assert campaign.settle("w1", room=1, slots=2).reserved_slots == 2
    second = campaign.settle("w2", room=1, slots=2)
    assert (leased(second), second.reserved_slots) == ([(2, 1)], 0), "they go on in order"
    assert second.has_other_wide_jobs


def test_nothing_is_prefetched_behind_a_job_that_waits_for_a_slot(campaign):
    """Else short jobs would take each slot that runs free, and it would never begin."""
    campaign.add(1)
    campaign.add(1, time_s=60)
    campaign.add(5)
    settled = campaign.settle("w1", room=1, prefetch=3)
    assert (leased(settled), settled.reserved_slots) == ([(1, 1)], 0)
    assert settled.is_prefetch_limited, "it listens to no marker before a slot is free"
    again = campaign.settle("w1", settlement((1, 1)), room=1, prefetch=3)
    assert leased(again) == [(2, 1)]


def test_nothing_is_prefetched_behind_a_job_that_begins(campaign):
    campaign.add(1, time_s=60)
    campaign.add(5)
    assert leased(campaign.settle("w1", room=1, prefetch=3)) == [(1, 1)]


def test_what_is_passed_over_keeps_nobody_from_prefetching(campaign):
    campaign.add(1, time_s=60)
    campaign.add(5)
    settled = campaign.settle("w1", room=1, prefetch=2, left_s=10)
    assert [(lease.id, lease.started) for lease in settled.leases] == [(2, True), (3, False), (4, False)]


def test_a_repeated_request_gets_the_same(campaign):
    campaign.add(1, slots=3, time_s=60)
    campaign.add(1, time_s=60)
    campaign.add(1)
    first = campaign.settle("w1", room=5, prefetch=1, slots=4, left_s=60, request="a-1")
    again = campaign.settle("w1", room=5, prefetch=1, slots=4, left_s=0, request="a-1")
    assert sorted(leased(again)) == sorted(leased(first)) == [(1, 3), (2, 1), (3, 1)]
    assert all(lease.started for lease in again.leases)


def test_the_limit_counts_them(make_campaign):
    campaign = make_campaign(most_running=2)
    campaign.add(3, time_s=60)
    assert leased(campaign.settle("w1", room=8, slots=8)) == [(1, 1), (2, 1)]


def test_a_worker_learns_that_there_are_jobs_for_it_which_ask_for_time(campaign):
    campaign.add(3)
    assert not campaign.settle("w1", room=1).may_have_shapes
    campaign.add(1, slots=2)
    assert not campaign.settle("w1", room=1).may_have_shapes, "they are too wide"
    campaign.add(1, time_s=60)
    assert campaign.settle("w1", room=1, left_s=5).may_have_shapes
    assert campaign.settle("w1", room=1).may_have_shapes
    assert campaign.settle("w1", room=1).may_have_shapes, "there were some"


# Shapes


@pytest.mark.parametrize(
    ("asked", "known"),
    [(1, 1), (59, 59), (999, 999), (1000, 1000), (1001, 1010), (3599, 3600), (86_400,) * 2, (86_401, 86_500)],
)
def test_requests_are_rounded_up_to_three_digits(campaign, asked, known):
    campaign.add(1, time_s=asked)
    assert campaign.queue.shapes_of([1]) == [Shape(1, known)]


def test_how_many_shapes_there_are_is_bounded(campaign):
    campaign.queue.repeating = False
    for time_s in range(1000, 9000, 10):
        campaign.add(1, time_s=time_s)
    found = names(campaign)
    assert len(found) <= 100 + 90
    shapes = campaign.queue.shapes_of(range(1, 801))
    for asked, shape in zip(range(1000, 9000, 10), shapes, strict=True):
        assert asked <= shape.time_s <= 1.1 * asked
    # One that is known stays as fine as it is.
    campaign.add(1, time_s=1010)
    assert campaign.queue.shapes_of([801]) == [Shape(1, 1010)]


def test_a_build_that_knows_no_times_takes_these_shapes_for_no_width(campaign):
    """It looks for the widths that it has the slots for by `tonumber(width)`."""
    campaign.add(1, time_s=60)
    campaign.add(1, slots=2, time_s=60)
    for name in names(campaign):
        assert campaign.client.eval("return tonumber(ARGV[1]) or 'none'", 0, name) == b"none"


@pytest.mark.parametrize("text", ["", "x", "@5", "2@", "2@x", "1@2@3", "9" * 30])
def test_a_damaged_shape_reads_as_none(campaign, text):
    campaign.queue.repeating = False
    campaign.add(1, time_s=60)
    campaign.client.hset(campaign.queue.keys.column("widths"), 1, text)
    campaign.client.zadd(campaign.queue.keys.column("wide"), {text: 1})
    assert Shape.parse(text) is None
    assert campaign.queue.shapes_of([1]) == [Shape()]
    assert campaign.queue.pending_shapes() == [Shape(1, 60)]
    assert leased(campaign.settle("w1", room=1, request="a-1")) == [(1, 1)]
    assert leased(campaign.settle("w1", room=1, request="a-1")) == [(1, 1)]


def test_the_pending_shapes(campaign):
    campaign.add(1, time_s=60)
    campaign.add(1, slots=2, time_s=60)
    campaign.add(1, slots=2)
    assert campaign.queue.pending_shapes() == [Shape(1, 60), Shape(2), Shape(2, 60)]
    assert campaign.queue.shapes_of([1, 2, 3]) == [Shape(1, 60), Shape(2, 60), Shape(2)]
    campaign.queue.cancel([2])
    assert campaign.queue.pending_shapes() == [Shape(1, 60), Shape(2)]
    assert [job for job, _, _ in campaign.queue.outstanding()] == [1, 3]


# The other moves


@pytest.mark.parametrize("end", ["release", "reclaim", "lost", "retry", "due", "failed"])
def test_they_come_back_as_they_are(make_campaign, end):
    campaign = make_campaign(max_attempts=2 if end == "failed" else 1, max_losses=3)
    campaign.add(1, time_s=60, delay_ms=60_000 if end == "due" else 0)
    if end == "due":
        assert campaign.count(State.SCHEDULED) == 1
        campaign.make_due()
    else:
        (token,) = campaign.lease("w1", left_s=60)
        if end == "release":
            campaign.queue.release("w1", [Release(*token, "drain", lacks_time=True)])
        elif end == "reclaim":
            campaign.die("w1")
        elif end == "lost":
            assert campaign.fail("w1", token, Outcome.LOST) == "again"
        else:
            campaign.fail("w1", token)
            if end == "retry":
                campaign.queue.retry([1])
            else:
                campaign.make_due()
    assert not campaign.lease("short", room=1, left_s=59)
    assert leased(campaign.settle("w2", room=1, left_s=60)) == [(1, 1)]


def test_a_stale_success_withdraws_it(campaign):
    campaign.add(1, time_s=60)
    (token,) = campaign.lease("w1")
    campaign.die("w1")
    assert campaign.ok("w1", token) == "recorded"
    assert campaign.columns().by_shape.get("1@60", []) == []


def test_they_are_cancelled_and_purged(campaign):
    campaign.add(3, time_s=60)
    assert campaign.queue.cancel([2]) == [2]
    assert campaign.queue.cancel_up_to(3) == 2
    campaign.add(1, time_s=60)
    campaign.queue.purge()
    prefix = campaign.queue.keys.column("").replace("{", "\\{")
    assert list(campaign.client.scan_iter(prefix + "*")) == []


def test_reuse_joins_a_job_as_it_is(campaign):
    campaign.enqueue({"x": 1}, reuse=True, time_s=60)
    again = campaign.enqueue({"x": 1}, reuse=True)
    assert [job.id for job in again.jobs] == [1]
    assert campaign.queue.shapes_of([1]) == [Shape(1, 60)]


def test_they_have_the_marker_of_the_wide_ones(campaign):
    assert campaign.wakes(lambda: campaign.add(1, time_s=60), wide=True)
    assert campaign.take_marker(), "workers of one slot know of none yet"
    assert campaign.wakes(lambda: campaign.add(1, time_s=60), wide=True)
    assert not campaign.take_marker()
    assert campaign.wakes(lambda: campaign.lease("w1", room=1), wide=True), "there is more"
    assert campaign.wakes(lambda: campaign.lease("w2", room=1, left_s=5), wide=True), "who cannot take it"
    assert not campaign.wakes(lambda: campaign.lease("w1", room=1), wide=True)


# Jobs that ask for time by themselves


def ran(campaign: LuaCampaign, for_s: float, worker: str = "w1", **options) -> Token:
    """Lease a job as if that had been so long ago."""
    now_ms = campaign.queue.snapshot().now_ms
    request = f"life{next(_lives)}-{now_ms - round(for_s * 1000)}"
    (token,) = campaign.lease(worker, request=request, **options)
    return token


def lack(campaign: LuaCampaign, for_s: float, **options) -> None:
    token = ran(campaign, for_s, **options)
    campaign.queue.release("w1", [Release(*token, "drain: the time limit is near", lacks_time=True)])


def asked_s(campaign: LuaCampaign, job: int = 1) -> int:
    return campaign.queue.shapes_of([job])[0].time_s


def test_after_three_times_it_asks_for_more_than_it_ever_ran(campaign, caplog):
    campaign.add(1)
    lack(campaign, 30)
    lack(campaign, 40)
    assert (asked_s(campaign), campaign.queue.time_lacks_of([1])) == (0, [2])
    with caplog.at_level(logging.WARNING):
        lack(campaign, 20)
    assert 50 <= asked_s(campaign) <= 52
    assert campaign.queue.time_lacks_of([1]) == [3]
    assert not campaign.lease("short", left_s=45)
    assert campaign.lease("long", left_s=60) == [(1, 4)]
    assert campaign.history(1) == "3 0 0 3 0 3", "none of them was charged"
    text = campaign.queue.failures(1)[-1]["body"]
    assert text.startswith("drain: the time limit is near; given back 3 times for lack of time")
    assert f"asks for {asked_s(campaign)} s" in text
    (record,) = caplog.records
    assert f"job 1 of {campaign.name}" in record.getMessage()


def test_it_asks_for_more_when_that_was_not_enough(campaign):
    campaign.add(1)
    for _ in range(3):
        lack(campaign, 40)
    first = asked_s(campaign)
    lack(campaign, 30)
    assert asked_s(campaign) == first, "it never ran for as long as it asks for"
    lack(campaign, 100)
    assert 125 <= asked_s(campaign) <= 127


def test_its_time_limit_caps_it(make_campaign):
    campaign = make_campaign(time_limit_s=44.5)
    campaign.add(1)
    for _ in range(4):
        lack(campaign, 40)
    assert asked_s(campaign) == 45


def test_a_wide_job_keeps_its_slots(campaign):
    campaign.add(1, slots=2)
    for _ in range(3):
        lack(campaign, 40, room=2, slots=2)
    assert campaign.queue.shapes_of([1])[0].slots == 2
    assert asked_s(campaign) >= 50


def test_what_was_asked_for_by_the_user_stays(campaign):
    campaign.add(1, time_s=20)
    for _ in range(5):
        lack(campaign, 40)
    assert asked_s(campaign) == 20
    assert campaign.queue.time_lacks_of([1]) == [0]


@pytest.mark.parametrize("saved_by", ["first", "last", "earlier"])
def test_attempts_that_saved_a_checkpoint_do_not_count(campaign, saved_by):
    campaign.add(1)
    if saved_by == "earlier":
        token = ran(campaign, 1)
        campaign.told("w1", token, checkpoint="1 here")
        campaign.queue.release("w1", [Release(*token, "drain")])
    for number in range(3):
        token = ran(campaign, 40)
        if (number, saved_by) in ((0, "first"), (2, "last")):
            campaign.told("w1", token, checkpoint="1 here")
        campaign.queue.release("w1", [Release(*token, "drain", lacks_time=True)])
    assert (asked_s(campaign) > 0) == (saved_by == "earlier")
    assert campaign.queue.time_lacks_of([1]) == [{"first": 2, "last": 0, "earlier": 3}[saved_by]]


@pytest.mark.parametrize(
    "release", [Release(1, 1, "drain"), Release(1, 1, "not yet", delayed=True), Release(1, 1)]
)
def test_other_releases_do_not_count(campaign, release):
    campaign.add(1)
    for _ in range(4):
        token = ran(campaign, 40)
        campaign.queue.release("w1", [release._replace(attempt=token[1])])
        campaign.make_due()
        campaign.lease("full", room=0)
    assert asked_s(campaign) == 0


def test_an_attempt_of_unknown_length_does_not_count(campaign):
    """Its worker numbers its requests by no time, or it had not begun."""
    campaign.add(2)
    for _ in range(4):
        (token,) = campaign.lease("w1", request=None)
        campaign.queue.release("w1", [Release(*token, "drain", lacks_time=True)])
    assert campaign.queue.time_lacks_of([1]) == [0]


@pytest.mark.parametrize("end", ["ok", "failed", "lost", "cancelled", "retried"])
def test_the_count_is_forgotten_when_the_job_is_over(make_campaign, end):
    campaign = make_campaign(max_attempts=1, max_losses=1)
    campaign.add(1)
    for _ in range(3):
        lack(campaign, 40)
    request = asked_s(campaign)
    (token,) = campaign.lease("w1")
    if end == "ok":
        campaign.ok("w1", token)
    elif end == "lost":
        campaign.die("w1")
    elif end == "cancelled":
        campaign.queue.cancel([1])
    else:
        campaign.fail("w1", token)
    if end == "retried":
        campaign.queue.retry([1])
        assert asked_s(campaign) == request, "it is known to need it"
    assert campaign.queue.time_lacks_of([1]) == [0]


def test_a_release_that_comes_late_or_twice_counts_once(campaign):
    campaign.add(1)
    token = ran(campaign, 40)
    release = Release(*token, "drain", lacks_time=True)
    assert campaign.queue.release("w1", [release]) == 1
    assert campaign.queue.release("w1", [release]) == 0
    assert campaign.queue.time_lacks_of([1]) == [1]


@pytest.mark.parametrize("text", ["", "x", "3", "-1 5", "9" * 40 + " 5", "2 " + "9" * 40])
def test_a_damaged_count_begins_anew(campaign, text):
    campaign.queue.repeating = False
    campaign.add(1)
    lack(campaign, 40)
    campaign.client.hset(campaign.queue.keys.column("time_lacks"), 1, text)
    lack(campaign, 40)
    assert campaign.queue.time_lacks_of([1])[0] in (1, 3)
    assert asked_s(campaign) in (0, 50, 51)


def test_a_column_of_another_type_stops_nothing(campaign):
    key = campaign.queue.keys.column("time_lacks")
    queue = CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)
    campaign.queue.repeating = False
    campaign.add(1)
    token = ran(campaign, 40)
    campaign.client.set(key, "garbage")
    assert queue.time_lacks_of([1]) == [0]
    assert queue.release("w1", [Release(*token, "drain", lacks_time=True)]) == 1
    assert queue.time_lacks_of([1]) == [1]
    (token,) = campaign.lease("w1")
    campaign.client.delete(key)
    campaign.client.set(key, "garbage")
    assert queue.settle(
        "w1", [settlement(token)], lease_ms=0, request="", room=0, prefetch=0, now=1000.0
    ).verdicts == ["recorded"]  # fmt: skip
