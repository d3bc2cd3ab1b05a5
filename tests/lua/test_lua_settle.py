"""settle, with lease: attempts are handed out, fenced, and recorded once."""

from __future__ import annotations

import math

import pytest

from queue_eval.campaign.scripts import script
from queue_eval.campaign.view import SCHEMA_VERSION
from queue_eval.model.moves import Release
from queue_eval.model.states import Outcome, State
from tests.support.lua_campaign import LEASE_MS, ids, settlement, tokens

# lease


def test_lease_hands_out_tokens_configs_and_room_first(campaign):
    campaign.enqueue({"x": 1}, {"x": 2}, {"x": 3}, {"x": 4})
    settled = campaign.settle("w1", room=1, prefetch=2)
    assert [(lease.id, lease.attempt, lease.started) for lease in settled.leases] == [
        (1, 1, True), (2, 1, False), (3, 1, False),
    ]  # fmt: skip
    assert [lease.config for lease in settled.leases] == [b'{"x": 1}', b'{"x": 2}', b'{"x": 3}']
    assert settled.verdicts == []
    assert settled.next_due_ms is None
    worker = campaign.queue.snapshot().workers[0]
    assert (worker.worker, worker.running) == ("w1", 3)
    assert worker.expiry_ms - settled.now_ms == pytest.approx(LEASE_MS, abs=1000)


def test_a_repeated_request_gets_the_same_leases(campaign):
    campaign.add(5)
    first = campaign.settle("w1", room=2, prefetch=1, request="71")
    other = campaign.lease("w2")
    again = campaign.settle("w1", room=2, prefetch=1, request="71")
    key = lambda lease: lease.id  # noqa: E731
    assert sorted(again.leases, key=key) == sorted(first.leases, key=key)
    assert ids(other) == [4]
    assert campaign.count(State.PENDING) == 1


def test_a_repeated_request_is_told_the_next_due_time_too(campaign):
    campaign.add(1)
    campaign.add(1, delay_ms=60_000)
    first = campaign.settle("w1", room=2, request="71")
    again = campaign.settle("w1", room=2, request="71")
    assert first.next_due_ms is not None
    assert again.next_due_ms == first.next_due_ms


def test_a_repeat_does_not_give_what_was_settled_or_cancelled_meanwhile(campaign):
    campaign.add(3)
    leased = tokens(campaign.settle("w1", room=3, request="71"))
    campaign.queue.cancel([1])
    campaign.settle("w1", settlement(leased[1]), lease_ms=0)
    assert tokens(campaign.settle("w1", room=3, request="71")) == [leased[2]]


def test_a_call_that_was_held_up_on_the_way_leases_nothing(campaign):
    """Nobody would read its reply, and the job would stay held for as long as the worker lives."""
    campaign.add(3)
    campaign.settle("w1", room=1, request="life-99")
    campaign.settle("w1", room=1, request="life-100")
    assert tokens(campaign.settle("w1", room=1, request="life-99")) == []
    assert campaign.count(State.PENDING) == 1
    assert tokens(campaign.settle("w1", room=1, request="anew-1")) == [(3, 1)], "another life of the name"


def test_neither_does_one_that_had_found_nothing(campaign):
    campaign.settle("w1", room=1, request="1")
    campaign.settle("w1", room=1, request="2")
    campaign.add(1)
    assert tokens(campaign.settle("w1", room=1, request="1")) == []
    assert tokens(campaign.settle("w1", room=1, request="3")) == [(1, 1)]


def test_nor_after_the_worker_was_reclaimed_or_has_left(campaign):
    campaign.add(2)
    campaign.settle("w1", room=1, request="5")
    campaign.die("w1")
    assert tokens(campaign.settle("w1", room=1, request="4")) == []
    campaign.queue.release("w1", [], leave=True)
    assert tokens(campaign.settle("w1", room=1, request="4")) == []


def test_a_full_worker_leases_nothing(campaign):
    campaign.add(2)
    assert campaign.lease(room=0) == []
    assert campaign.lease(room=-1, prefetch=1) == []
    assert campaign.count(State.PENDING) == 2


def test_big_leases_are_bounded_and_settled_whole(campaign):
    campaign.queue.repeating = False
    campaign.add(5000)
    leased = [token for _ in range(3) for token in campaign.lease(room=5000)]
    assert ids(leased) == list(range(1, 5001))
    settled = campaign.settle("w1", *(settlement(token) for token in leased))
    assert settled.verdicts == ["recorded"] * 5000
    assert campaign.count(State.SUCCEEDED) == 5000


def test_10_000_settlements_in_one_call(campaign):
    campaign.queue.repeating = False
    campaign.add(10_000, priority=2)
    leased = [token for _ in range(5) for token in campaign.lease(room=2000)]
    half = [settlement(t) for t in leased[::2]] + [settlement(t, Outcome.LOST) for t in leased[1::2]]
    assert campaign.settle("w1", *half).verdicts == ["recorded"] * 5000 + ["again"] * 5000
    assert campaign.count(State.PENDING) == 5000


# success


def test_a_success_is_recorded_whole(campaign, anything):
    campaign.add(1)
    token = campaign.lease()[0]
    report = settlement(token, body=anything, run_ms=1234.5678, age_s=0.5, output=anything)
    settled = campaign.settle("w1", report)
    assert settled.verdicts == ["recorded"]
    (entry,) = campaign.results()
    assert (entry.id, entry.state, entry.attempts, entry.worker) == (1, State.SUCCEEDED, 1, "w1")
    assert (entry.run_ms, entry.source, entry.cause, entry.body) == (1234.57, "s1", "", anything)
    assert settled.now_ms - entry.finished_ms == pytest.approx(500, abs=5)
    assert entry.started_ms == entry.finished_ms - entry.run_ms
    assert campaign.queue.outputs_of([1, 2]) == [anything, None]
    assert campaign.history(1) is None


def test_empty_output_is_not_stored(campaign):
    campaign.add(1)
    campaign.ok("w1", campaign.lease()[0])
    assert campaign.queue.outputs_of([1]) == [None]


def test_settling_again_is_told_finished_and_the_first_result_wins(campaign):
    campaign.add(1)
    token = campaign.lease()[0]
    assert campaign.ok("w1", token, b"first") == "recorded"
    assert campaign.ok("w1", token, b"second") == "finished"
    assert campaign.fail("w1", token) == "finished"
    assert [entry.body for entry in campaign.results()] == [b"first"]


def test_the_same_token_twice_in_one_batch(campaign):
    campaign.add(2)
    one, two = campaign.lease(room=2)
    settled = campaign.settle("w1", settlement(one, body=b"a"), settlement(one, body=b"b"), settlement(two))
    assert settled.verdicts == ["recorded", "finished", "recorded"]
    assert [entry.body for entry in campaign.results()] == [b"a", b"1"]


def test_settle_leases_the_next_in_the_same_call(campaign):
    campaign.add(2)
    settled = campaign.settle("w1", settlement(campaign.lease()[0]), room=1)
    assert (settled.verdicts, tokens(settled)) == (["recorded"], [(2, 1)])


def test_a_spool_is_settled_without_extending_the_dead_worker(campaign):
    campaign.add(2)
    one, two = campaign.lease(room=2)
    campaign.expire("w1")
    settled = campaign.settle("w1", settlement(one), lease_ms=0, request="", room=5)
    assert settled.verdicts == ["recorded"]
    assert settled.leases == []
    assert campaign.queue.snapshot().workers[0].expiry_ms == 0
    campaign.die("w1")
    assert campaign.settle("w1", settlement(two), lease_ms=0).verdicts == ["recorded"], "stale, but a success"
    assert campaign.queue.snapshot().workers == [], "a worker without a lease is not registered"


# fencing


def lose_lease(campaign, count=1):
    """Jobs whose first attempt still runs on w1, which was taken for dead."""
    campaign.add(count)
    stale = campaign.lease("w1", room=count)
    campaign.die("w1")
    return stale


def test_a_stale_failure_is_dropped(campaign):
    (stale,) = lose_lease(campaign)
    assert campaign.fail("w1", stale) == "stale"
    (newer,) = campaign.lease("w2")
    assert newer == (1, 2)
    for outcome in (Outcome.ERROR, Outcome.TIMEOUT, Outcome.LOST):
        assert campaign.fail("w1", stale, outcome) == "stale"
    assert campaign.state(1) == State.RUNNING
    assert campaign.history(1) == "1 0 1 0 0"
    assert campaign.ok("w2", newer) == "recorded"


def test_a_stale_success_withdraws_a_pending_job(campaign):
    (stale,) = lose_lease(campaign)
    assert campaign.ok("w1", stale) == "recorded"
    assert campaign.lease("w2") == []
    assert campaign.results()[0].attempts == 1


def test_a_stale_success_withdraws_a_scheduled_job(make_campaign):
    campaign = make_campaign(max_attempts=2)
    (stale,) = lose_lease(campaign)
    campaign.fail("w2", campaign.lease("w2")[0])
    assert campaign.state(1) == State.SCHEDULED
    assert campaign.ok("w1", stale) == "recorded"
    assert campaign.count(State.SUCCEEDED) == 1
    assert campaign.results()[0].attempts == 2


def test_a_stale_success_withdraws_the_newer_attempt_from_another_worker(campaign):
    (stale,) = lose_lease(campaign)
    (newer,) = campaign.lease("w2")
    assert campaign.ok("w1", stale, b"old") == "recorded"
    extended = campaign.queue.extend("w2", LEASE_MS, [newer])
    assert (extended.finished, extended.taken) == ([1], [])
    assert campaign.ok("w2", newer, b"new") == "finished"
    (entry,) = campaign.results()
    assert (entry.body, entry.attempts, entry.worker) == (b"old", 2, "w1")


def test_a_stale_success_withdraws_the_newer_attempt_from_the_same_worker(campaign):
    (stale,) = lose_lease(campaign)
    (newer,) = campaign.lease("w1")
    assert campaign.ok("w1", stale) == "recorded"
    assert campaign.fail("w1", newer) == "finished"


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.LOST])
def test_a_stale_success_counts_beside_the_newer_failure_in_one_batch(make_campaign, outcome):
    campaign = make_campaign(max_attempts=5, max_losses=5)
    (stale,) = lose_lease(campaign)
    (newer,) = campaign.lease("w1")
    settled = campaign.settle("w1", settlement(newer, outcome), settlement(stale))
    assert settled.verdicts == ["finished", "recorded"]


def test_a_stale_success_begun_after_its_job_was_given_back_counts_one_execution(campaign):
    campaign.add(1)
    (prefetched,) = campaign.lease("w1", room=0, prefetch=1)
    campaign.die("w1")
    assert campaign.ok("w1", prefetched) == "recorded"
    assert campaign.results()[0].attempts == 1


@pytest.mark.parametrize("job", ["0", "-1", "2", "1.5", "01", "1e0", "0x1", "x", ""])
def test_a_success_of_a_job_that_never_was_is_dropped(campaign, job):
    campaign.add(1)
    assert campaign.settle("w1", settlement((job, 1))).verdicts == ["stale"]
    assert campaign.count(State.PENDING) == 1


# failure


def test_a_failure_without_attempts_left_is_final(campaign, anything):
    campaign.add(1)
    token = campaign.lease()[0]
    assert campaign.settle("w1", settlement(token, Outcome.ERROR, anything)).verdicts == ["recorded"]
    (entry,) = campaign.results()
    assert (entry.state, entry.cause, entry.body, entry.attempts) == (State.FAILED, "error", anything, 1)
    assert campaign.queue.failed_ids() == [1]
    assert [f["cause"] for f in campaign.queue.failures(1)] == ["error"]


def test_retry_delays_grow_and_are_capped(make_campaign):
    campaign = make_campaign(max_attempts=6, retry_first_ms=10_000, retry_factor=3, retry_max_ms=100_000)
    campaign.add(1)
    for attempt, expected in enumerate([10_000, 30_000, 90_000, 100_000, 100_000], start=1):
        token = campaign.lease()[0]
        assert token == (1, attempt)
        assert campaign.fail("w1", token, Outcome.TIMEOUT) == "again"
        assert campaign.delay_of(1) == pytest.approx(expected, abs=1000)
        campaign.make_due()
    assert campaign.fail("w1", campaign.lease()[0]) == "recorded"
    assert campaign.results()[0].attempts == 6
    assert [f["cause"] for f in campaign.queue.failures(1)] == ["timeout"] * 5 + ["error"]


@pytest.mark.parametrize(("first", "factor"), [(0, 10), (1000, 10), (0.5, 1.5)])
def test_retry_delays_never_overflow(make_campaign, first, factor):
    campaign = make_campaign(max_attempts=10_000, retry_first_ms=first, retry_factor=factor)
    campaign.add(1)
    campaign.client.hset(campaign.queue.keys.column("attempts"), "1", "2000 2000 0 0 0")
    assert campaign.fail("w1", campaign.lease()[0]) == "again"
    assert campaign.delay_of(1) <= 60_000


def test_losses_are_counted_apart_and_end_in_quarantine(make_campaign):
    campaign = make_campaign(max_attempts=2, max_losses=2, retry_first_ms=0)
    campaign.add(1)
    assert campaign.fail("w1", campaign.lease()[0], Outcome.LOST) == "again"
    assert campaign.state(1) == State.PENDING, "a loss is not the job's failure: it need not wait"
    assert campaign.fail("w1", campaign.lease()[0]) == "again"
    assert campaign.history(1) == "2 1 1 0 0"
    campaign.make_due()
    assert campaign.fail("w1", campaign.lease()[0], Outcome.LOST) == "recorded"
    (entry,) = campaign.results()
    assert (entry.state, entry.cause, entry.attempts) == (State.FAILED, "lost", 3)
    assert [f["cause"] for f in campaign.queue.failures(1)] == ["lost", "error", "lost"]


def test_a_success_after_failures_counts_them_and_forgets_its_history(make_campaign):
    campaign = make_campaign(max_attempts=3, retry_first_ms=0)
    campaign.add(1)
    campaign.fail("w1", campaign.lease()[0])
    campaign.make_due()
    assert campaign.ok("w1", campaign.lease()[0]) == "recorded"
    assert campaign.results()[0].attempts == 2
    assert campaign.history(1) is None


# the marker


def test_the_marker_is_put_back_while_work_remains(campaign):
    campaign.add(3)
    assert campaign.wakes(lambda: campaign.lease("w1"))
    assert campaign.wakes(lambda: campaign.lease("w2", room=0)), "a full worker had taken it"
    assert not campaign.wakes(lambda: campaign.lease("w2", room=2)), "nothing is left"


def test_a_failure_to_be_tried_again_wakes(make_campaign):
    campaign = make_campaign(max_attempts=2)
    campaign.add(2)
    one, two = campaign.lease(room=2)
    assert campaign.wakes(lambda: campaign.fail("w1", one)), "someone must learn when it is due"
    assert campaign.wakes(lambda: campaign.fail("w1", two, Outcome.LOST))


def test_falling_due_wakes_when_work_remains(campaign):
    campaign.add(2, delay_ms=60_000)
    campaign.make_due()
    assert campaign.wakes(lambda: campaign.lease("w1"))


# pause


def test_a_paused_campaign_leases_nothing_but_settles(make_campaign):
    campaign = make_campaign(max_attempts=2, retry_first_ms=0)
    campaign.add(4)
    one, two = campaign.lease(room=2)
    assert campaign.queue.pause(True)
    assert not campaign.queue.pause(True)
    assert campaign.queue.snapshot().paused
    settled = campaign.settle("w1", settlement(one), settlement(two, Outcome.ERROR), room=2)
    assert (settled.verdicts, settled.leases) == (["recorded", "again"], [])
    campaign.make_due()
    assert campaign.lease(room=5) == []
    assert campaign.wakes(lambda: campaign.queue.pause(False))
    assert not campaign.queue.pause(False)
    assert sorted(campaign.lease(room=5)) == [(2, 2), (3, 1), (4, 1)]


def test_a_request_repeated_after_a_pause_gets_its_leases(campaign):
    campaign.add(1)
    first = campaign.settle("w1", room=1, request="7")
    campaign.queue.pause(True)
    assert campaign.settle("w1", room=1, request="7").leases == first.leases


def test_the_revision_tells_workers_that_the_campaign_was_opened_again(campaign):
    before = campaign.settle("w1").revision
    campaign.add(1)
    keys = campaign.queue.keys.columns
    campaign.link.run_script(script("open"), keys, "x", SCHEMA_VERSION, 1, "function", "module:run")
    assert campaign.settle("w1").revision == before + 1 == campaign.queue.extend("w1", 1, []).revision


def test_unfinite_run_times_are_recorded(campaign):
    campaign.add(1)
    campaign.settle("w1", settlement(campaign.lease()[0], run_ms=math.inf))
    assert campaign.results()[0].run_ms == math.inf


def test_a_late_success_counts_no_execution_that_was_only_prefetched(campaign):
    campaign.add(1)
    (first,) = campaign.lease("w1")
    campaign.die("w1")
    assert campaign.lease("w2", room=0, prefetch=1) == [(1, 2)]
    assert campaign.ok("w1", first) == "recorded"
    assert campaign.results()[0].attempts == 1


def test_a_second_failure_of_one_call_is_stale(campaign):
    """Another attempt of the same job, of a worker that has had it twice."""
    campaign.add(1)
    (old,) = campaign.lease()
    campaign.queue.release("w1", [Release(*old, "drain")])
    (new,) = campaign.lease()
    reports = [settlement(new, Outcome.LOST), settlement(old, Outcome.LOST)]
    assert campaign.settle("w1", *reports).verdicts == ["again", "stale"]


# In advance


def test_in_advance_a_worker_is_given_its_share_of_what_waits(campaign):
    campaign.add(12)
    campaign.settle("w2")
    campaign.settle("w3")
    settled = campaign.settle("w1", room=2, prefetch=9)
    assert [lease.started for lease in settled.leases] == [True, True, False, False, False]
    assert settled.prefetch_limited
    assert len(campaign.settle("w1", prefetch=9).leases) == 2, "a share of what is left"
    assert campaign.wakes(lambda: campaign.settle("w1", prefetch=9)), "the others are told of what waits"


def test_alone_a_worker_is_given_all_that_it_asks_for(campaign):
    campaign.add(12)
    settled = campaign.settle("w1", room=2, prefetch=10)
    assert (len(settled.leases), settled.prefetch_limited) == (12, False)


def test_nobody_is_held_back_whose_slots_are_free_or_for_whom_nothing_is_left(campaign):
    campaign.add(3)
    campaign.settle("w2")
    assert not campaign.settle("w1", room=3, prefetch=6).prefetch_limited, "nothing is left"
    campaign.add(4)
    assert not campaign.settle("w1", room=1).prefetch_limited, "it asked for nothing in advance"
    assert campaign.settle("w1", prefetch=6).prefetch_limited


@pytest.mark.parametrize("outcome", [Outcome.NAN, Outcome.INF])
def test_a_result_that_is_no_number_is_final_at_once(make_campaign, outcome):
    campaign = make_campaign(max_attempts=5, retry_first_ms=0)
    campaign.add(2)
    assert campaign.fail("w1", campaign.lease()[0]) == "again"
    campaign.make_due()
    leased = {token[0]: token for token in campaign.lease(room=2)}
    assert campaign.fail("w1", leased[1], outcome) == campaign.fail("w1", leased[2], outcome) == "recorded"
    assert [(entry.state, entry.cause, entry.attempts) for entry in campaign.results()] == [
        (State.FAILED, outcome, 2), (State.FAILED, outcome, 1),
    ]  # fmt: skip
    campaign.queue.retry([1])
    assert campaign.count(State.PENDING) == 1
    assert campaign.settle("w1", settlement((1, 2), outcome)).verdicts == ["stale"]
