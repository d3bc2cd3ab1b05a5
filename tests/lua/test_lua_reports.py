"""report: what running attempts tell of themselves, and how it is read."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import EXTRA_COLUMNS
from queue_eval.model.moves import Release
from queue_eval.model.report import Report, ReportHead, parse_block
from queue_eval.model.states import Outcome, State
from queue_eval.server.acl import rights_of
from queue_eval.transport.link import Link
from tests.support.lua_campaign import BASE_MS, LuaCampaign, batch, is_gone, settlement


def told(campaign: LuaCampaign, job: int = 1, after: tuple[int, int] = (0, 0)) -> list[tuple[int, int]]:
    """(attempt, number) of each report that is kept."""
    return [(report.attempt, number) for number, report in campaign.queue.reports_of(job, after)]


def head_of(campaign: LuaCampaign, job: int = 1) -> ReportHead:
    (head,) = campaign.queue.report_heads([job])
    return head


@pytest.fixture
def running(campaign):
    """A campaign whose jobs 1 and 2 run on w1, and of which job 3 waits."""
    campaign.add(3)
    campaign.lease(room=2)
    return campaign


# What is taken


def test_a_report_is_read_as_it_was_told(running):
    lines = b'1 1500 -7 {"loss":NaN,"k":3}\n2 2500 9007199254740992 {"loss":-Infinity}\n'
    assert running.queue.report("w1", [batch((1, 1), lines=lines)]) == [True]
    (first, one), (second, two) = running.queue.reports_of(1)
    assert (first, second) == (1, 2)
    assert (one.step, one.attempt, one.values["k"]) == (-7, 1, 3)
    assert math.isnan(one.values["loss"])
    assert one.at == datetime.fromtimestamp(BASE_MS / 1000 + 1.5, UTC)
    assert two == Report(2**53, {"loss": -math.inf}, 1, datetime.fromtimestamp(BASE_MS / 1000 + 2.5, UTC))
    assert running.queue.reports_of(2) == []


def test_batches_of_several_jobs_go_in_one_call(running):
    sent = [batch((2, 1), [(1, 5)]), batch((3, 1), [(1, 5)]), batch((1, 1), [(1, 5), (2, 6)])]
    assert running.queue.report("w1", sent) == [True, False, True]
    assert [told(running, job) for job in (1, 2, 3)] == [[(1, 1), (1, 2)], [(1, 1)], []]


def test_two_batches_of_one_attempt_in_one_call(running):
    assert running.queue.report("w1", [batch((1, 1), [(1, 5)]), batch((1, 1), [(2, 5)])]) == [True, True]
    assert told(running) == [(1, 1), (1, 2)]


def test_a_merged_batch_adds_what_is_new_only(running):
    assert running.told("w1", (1, 1), [(1, 0), (4, 0)], dropped=2)
    assert running.told("w1", (1, 1), [(1, 0), (4, 0), (6, 0)], dropped=3)
    assert told(running) == [(1, 1), (1, 4), (1, 6)]
    assert head_of(running).dropped == 3
    assert running.told("w1", (1, 1), [(4, 0)], dropped=5)
    assert head_of(running) == ReportHead(1, 3, 3, 0, 6, 1)


def test_what_a_batch_tells_of_drops_counts_beside_the_gaps(running):
    running.told("w1", (1, 1), [(1, 0), (2, 0)], dropped=7)
    assert head_of(running).dropped == 7
    running.told("w1", (1, 1), dropped=7)
    assert head_of(running).dropped == 7, "nothing came with it"


@pytest.mark.parametrize(
    "token", [(1, 2), (1, 0), (3, 1), (99, 1)], ids=["newer", "older", "not held", "unknown"]
)
def test_only_the_token_that_is_held_may_report(running, token):
    everything = {"looks": True, "checkpoint": "1 here"}
    assert running.told("w1", token, [(1, 0)], **everything) is False
    assert running.told("w2", (1, 1), [(1, 0)], **everything) is False
    assert not any(running.columns().extras)


def test_after_its_end_or_loss_an_attempt_reports_no_more(running):
    running.ok("w1", (1, 1))
    running.die("w1")
    assert running.told("w1", (1, 1), [(1, 0)]) is False
    assert running.told("w1", (2, 1), [(1, 0)]) is False
    assert running.lease("w2", room=1) == [(2, 2)]
    assert running.told("w1", (2, 1), [(1, 0)]) is False
    assert running.told("w2", (2, 2), [(1, 0)]) is True
    assert told(running, 2) == [(2, 1)]


def test_an_equal_token_of_another_lease_is_not_held(campaign):
    """A server that has gone back in time gives tokens again: the request tells them apart."""
    campaign.add(1)
    (lease,) = campaign.settle("w1", room=1, request="a-1").leases
    assert campaign.told("w1", lease._replace(request="a-2"), [(1, 0)]) is False
    assert campaign.told("w1", lease._replace(request="a-"), [(1, 0)]) is False
    assert campaign.told("w1", lease, [(1, 0)]) is True
    assert campaign.told("w1", (lease.id, lease.attempt), [(2, 0)]) is True, "without a request, by its token"


def test_another_attempt_counts_anew_in_a_block_of_its_own(running):
    running.told("w1", (1, 1), [(1, 0), (2, 0)])
    running.die("w1")
    assert (1, 2) in running.lease("w2", room=2)
    assert running.told("w2", (1, 2), [(1, 0)], base_ms=BASE_MS + 60_000)
    assert told(running) == [(1, 1), (1, 2), (2, 1)]
    assert head_of(running).blocks == 2
    last = running.queue.reports_of(1)[-1][1]
    assert last.at == datetime.fromtimestamp(BASE_MS / 1000 + 61, UTC)


def test_the_begin_of_an_attempt_is_that_of_its_first_batch(running):
    running.told("w1", (1, 1), [(1, 0)])
    running.told("w1", (1, 1), [(n, 0) for n in range(2, 150)], base_ms=BASE_MS + 9)
    assert {report.at.microsecond for _, report in running.queue.reports_of(1)} == {0}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"1", b"x 1 1 {}", b"1 1 1", b"1 1 1 {", b"1 1 1 5", b"-1 1 1 {}", b"1 1 1.5 {}",
        b"1" * 15 + b" 1 1 {}", b"1 " + b"1" * 15 + b" 1 {}", b"1 1 " + b"1" * 18 + b" {}",
        b'1 1 1 {"x":"' + b"y" * 4096 + b'"}', b"\x00\xff", b"0 1 1 {}",
    ],
)  # fmt: skip
def test_a_line_that_is_no_point_is_left_out(running, line):
    assert running.told("w1", (1, 1), lines=line + b'\n7 1 1 {"x":1}\n')
    assert told(running) == [(1, 7)]


def test_lines_out_of_order_are_left_out(running):
    assert running.told("w1", (1, 1), [(3, 0), (1, 0), (3, 0), (5, 0)])
    assert told(running) == [(1, 3), (1, 5)]


def test_a_gone_campaign_takes_nothing(running):
    running.queue.purge()
    assert is_gone(lambda: running.told("w1", (1, 1), [(1, 0)]))
    assert not running.client.exists(*running.queue.keys.columns)


# Reading


def test_reading_on_from_a_cursor(running):
    running.queue.repeating = False
    for first in range(1, 1000, 33):
        running.told("w1", (1, 1), [(n, n) for n in range(first, first + 33)])
    numbers = [(1, n) for n in range(1, 1024)]
    assert told(running) == numbers
    for after in (0, 1, 99, 100, 101, 500, 1022, 1023, 5000):
        assert told(running, after=(1, after)) == numbers[after:]
    assert told(running, after=(0, 7)) == numbers
    assert told(running, after=(2, 0)) == []


def test_more_blocks_than_one_page(make_campaign):
    campaign = make_campaign(max_losses=1000)
    campaign.queue.repeating = False
    campaign.add(1)
    for _ in range(120):
        (token,) = campaign.lease()
        campaign.told("w1", token, [(1, 0), (2, 0)])
        campaign.queue.release("w1", [Release(*token)])
    every = [(attempt, number) for attempt in range(1, 121) for number in (1, 2)]
    assert told(campaign) == every
    assert told(campaign, after=(3, 1)) == every[5:]
    assert head_of(campaign).blocks == 120


def test_hints_name_the_jobs_that_have_reported(running):
    queue = running.queue
    assert queue.newest_hint() == "0-0"
    assert queue.reported_after("0-0") == (set(), "0-0")
    running.told("w1", (1, 1), [(1, 0)])
    ids, cursor = queue.reported_after("0-0")
    assert (ids, cursor) == (None, queue.newest_hint()), "it cannot know that nothing was trimmed"
    assert queue.reported_after(cursor) == (set(), cursor)
    queue.report("w1", [batch((2, 1), [(1, 0)]), batch((1, 1), [(2, 0)])])
    running.told("w1", (2, 1), [(2, 0)])
    running.told("w1", (1, 1), looks=True)
    ids, newer = queue.reported_after(cursor)
    assert ids == {1, 2}
    assert queue.reported_after(newer) == (set(), newer)
    assert sorted(queue.reporting_ids()) == [1, 2]


def test_a_cursor_that_is_trimmed_away_or_unknown_means_all(running):
    running.told("w1", (1, 1), [(1, 0)])
    cursor = running.queue.newest_hint()
    running.told("w1", (1, 1), [(2, 0)])
    running.client.xtrim(running.queue.keys.reported, maxlen=1, approximate=False)
    newest = running.queue.newest_hint()
    assert running.queue.reported_after(cursor) == (None, newest)
    assert running.queue.reported_after("99999999999999-0") == (None, newest), "the server has gone back"


def test_many_hints_are_read_in_pages(running):
    running.queue.repeating = False
    running.told("w1", (1, 1), [(1, 0)])
    cursor = running.queue.newest_hint()
    for number in range(2500):
        running.client.xadd(running.queue.keys.reported, {"ids": str(number % 2 + 1)})
    assert running.queue.reported_after(cursor) == ({1, 2}, running.queue.newest_hint())


def test_a_reading_during_which_points_are_thinned_out_begins_anew(running, monkeypatch):
    queue = running.queue
    queue.repeating = False
    running.told("w1", (1, 1), [(n, 0) for n in range(1, 10_001)])
    read_blocks = queue._report_blocks
    calls = []

    def interrupted(job, first, last):
        if not calls:
            calls.append(running.told("w1", (1, 1), [(10_001, 0)]))
        return read_blocks(job, first, last)

    monkeypatch.setattr(queue, "_report_blocks", interrupted)
    assert told(running) == [(1, n) for n in range(1, 10_002, 2)]


# Bounds


def test_of_too_many_points_every_second_one_goes(running):
    running.queue.repeating = False
    running.told("w1", (1, 1), [(1, 0), (2, 0)])
    running.queue.release("w1", [Release(1, 1)])
    (token,) = running.lease()
    for first in range(1, 10_000, 1111):
        running.told("w1", token, [(n, 0) for n in range(first, first + 1111)])
    # 2 + 9,999 of 10,001 points: one too many, once.
    assert told(running) == [(1, 1), *((2, n) for n in range(1, 10_000, 2))]
    head = head_of(running)
    assert (head.points, head.dropped) == (5001, 5000)
    assert running.told("w1", token, [(10_000, 0)])
    assert told(running)[-2:] == [(2, 9999), (2, 10_000)]
    running.columns().check()


def test_the_last_of_an_even_number_of_points_stays(running):
    running.queue.repeating = False
    running.told("w1", (1, 1), [(n, 0) for n in range(1, 10_003)])
    numbers = [number for _, number in told(running)]
    assert numbers == [*range(1, 10_003, 2), 10_002]
    running.columns().check()


def test_far_too_many_points_at_once(running):
    running.told("w1", (1, 1), [(n, 0) for n in range(1, 50_001)])
    numbers = [number for _, number in told(running)]
    assert (numbers[0], numbers[-1]) == (1, 50_000)
    assert 5000 <= len(numbers) <= 10_000
    assert head_of(running).dropped == 50_000 - len(numbers)


def test_large_points_are_bounded_by_their_size(running):
    running.queue.repeating = False
    large = "y" * 4000
    for first in range(1, 2400, 200):
        running.told("w1", (1, 1), [(n, large) for n in range(first, first + 200)])
    size = int(running.columns().report_heads[b"1"].split()[7])
    assert size <= 8 * 2**20
    running.columns().check()


# Checkpoints, looks, give-backs


def test_a_checkpoint_never_goes_back(running):
    def newest():
        return running.queue.checkpoints_of([1, 2])

    running.told("w1", (1, 1), checkpoint="2 here")
    assert newest() == ["1 2 here", None]
    running.told("w1", (1, 1), checkpoint="1 there")
    assert newest() == ["1 2 here", None]
    running.told("w1", (1, 1), checkpoint="10 there")
    assert newest() == ["1 10 there", None]
    running.die("w1")
    assert (1, 2) in running.lease("w2", room=2)
    assert running.told("w1", (1, 1), checkpoint="11 late") is False
    assert newest() == ["1 10 there", None]
    running.told("w2", (1, 2), checkpoint="1 here")
    assert newest() == ["2 1 here", None]


@pytest.mark.parametrize("text", ["x", "1", "-1 a", "1 a b", "1 ", "1" * 20 + " a", "1 " + "a" * 200, "1 ä"])
def test_what_is_no_checkpoint_is_left_out(running, text):
    assert running.told("w1", (1, 1), [(1, 0)], checkpoint=text) is True
    assert running.queue.checkpoints_of([1]) == [None]


def test_a_lease_brings_the_checkpoint_and_the_request_to_stop(running):
    running.told("w1", (1, 1), checkpoint="3 here")
    running.queue.stop([1, 2])
    running.die("w1")
    settled = running.settle("w2", room=3)
    found = {lease.id: (lease.stop, lease.checkpoint) for lease in settled.leases}
    assert found == {1: (True, "1 3 here"), 2: (True, ""), 3: (False, "")}


def test_a_repeated_request_brings_them_again(running):
    running.queue.release("w1", [Release(1, 1), Release(2, 1)])
    running.lease(room=1)
    running.told("w1", (1, 2), checkpoint="3 here")
    running.queue.release("w1", [Release(1, 2)])
    for _ in range(2):
        (lease,) = running.settle("w1", room=1, request="a-1").leases
        assert (lease.id, lease.checkpoint) == (1, "2 3 here")


def test_a_checkpoint_ends_the_row_of_give_backs(make_campaign):
    campaign = make_campaign(retry_first_ms=0)
    campaign.add(1)
    for times in range(1, 4):
        campaign.queue.release("w1", [Release(*campaign.lease()[0], "drain")])
        assert campaign.queue.give_backs(1) == [(1, times)]
    assert campaign.queue.give_backs() == []
    assert campaign.queue.give_backs(3) == [(1, 3)]
    (token,) = campaign.lease()
    campaign.told("w1", token, checkpoint="1 here")
    assert campaign.queue.give_backs(1) == []
    campaign.queue.release("w1", [Release(*token, "drain")])
    assert campaign.queue.give_backs(1) == [(1, 1)]
    campaign.queue.repeating = False
    (token,) = campaign.lease()
    campaign.queue.release("w1", [Release(*token)])
    assert campaign.queue.give_backs(1) == [(1, 1)], "an attempt that only waited is not given back"


def test_the_newest_attempt_that_has_looked(running):
    running.told("w1", (1, 1), looks=True)
    assert head_of(running) == ReportHead(0, 0, 0, 1)
    running.told("w1", (1, 1), [(1, 0)])
    assert head_of(running).looked == 1
    assert sorted(running.queue.reporting_ids()) == [1]


# The end of a job


def test_outcomes_tell_how_many_reports_are_kept(make_campaign):
    campaign = make_campaign(max_losses=1)
    campaign.add(4)
    campaign.lease(room=4)
    for job in (1, 2, 3):
        campaign.told("w1", (job, 1), [(n, 0) for n in range(1, job + 1)], checkpoint="1 here")
    campaign.ok("w1", (1, 1))
    campaign.fail("w1", (2, 1))
    campaign.queue.cancel([3])
    campaign.told("w1", (4, 1), [(n, 0) for n in range(1, 5)], checkpoint="1 here")
    campaign.queue.stop([4])
    campaign.die("w1")
    ends = {entry.id: (entry.state, entry.reports) for entry in campaign.results()}
    assert ends == {
        1: (State.SUCCEEDED, 1), 2: (State.FAILED, 2), 3: (State.CANCELLED, 3), 4: (State.FAILED, 4)
    }  # fmt: skip
    assert campaign.queue.checkpoints_of([1, 2, 3, 4]) == [None, "1 1 here", None, "1 1 here"]
    assert campaign.queue.stops_of([4]) == [False]
    assert [len(told(campaign, job)) for job in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_a_success_after_releases_and_failures_clears_all(make_campaign):
    campaign = make_campaign(max_attempts=3, retry_first_ms=0)
    campaign.add(1)
    campaign.queue.release("w1", [Release(*campaign.lease()[0], "drain")])
    (token,) = campaign.lease()
    campaign.told("w1", token, [(1, 0)], checkpoint="1 here")
    campaign.fail("w1", token)
    campaign.queue.stop([1])
    (stale,) = campaign.lease()
    campaign.queue.release("w1", [Release(*stale, "drain")])
    assert campaign.queue.checkpoints_of([1]) == ["2 1 here"]
    assert campaign.ok("w1", stale) == "recorded", "from a stale attempt"
    there = campaign.columns()
    assert (there.stops, there.checkpoints, there.give_backs) == ({}, {}, [])
    (entry,) = campaign.results()
    assert (entry.reports, entry.releases) == (1, 2)


def test_a_retried_job_goes_on_from_its_checkpoint_and_is_not_stopped(campaign):
    campaign.add(1)
    (token,) = campaign.lease()
    campaign.told("w1", token, [(1, 0)], checkpoint="5 here")
    campaign.queue.stop([1])
    campaign.fail("w1", token)
    campaign.queue.retry([1])
    (lease,) = campaign.settle("w1", room=1).leases
    assert (lease.attempt, lease.stop, lease.checkpoint) == (2, False, "1 5 here")
    campaign.told("w1", lease, [(1, 0)])
    assert told(campaign) == [(1, 1), (2, 1)]


def test_no_report_of_before_a_retry_has_a_later_attempt(campaign):
    """Attempts that were given back without a word are not told of in the outcome."""
    campaign.queue.repeating = False
    campaign.add(1)
    for _ in range(30):
        (token,) = campaign.lease()
        campaign.queue.release("w1", [Release(*token)])
    (token,) = campaign.lease()
    campaign.told("w1", token, [(1, 0)])
    campaign.ok("w1", token)
    (entry,) = campaign.results()
    campaign.queue.retry_results({1: entry.entry})
    (newer,) = campaign.lease()
    assert newer == (1, token[1] + 1)


def test_purge_deletes_all_columns(running):
    running.told("w1", (1, 1), [(1, 0)], checkpoint="1 here", looks=True)
    running.queue.stop([1])
    running.queue.release("w1", [Release(1, 1, "drain")])
    columns = [running.queue.keys.column(name) for name in EXTRA_COLUMNS]
    running.tell("w1", (2, 1), 1, b"x")
    for name, value in (("tags", "[]"), ("time_lacks", "1 5"), ("distant", "0 1"), ("summary", "x")):
        running.client.hset(running.queue.keys.column(name), 2, value)
    assert running.client.exists(*columns) == len(columns)
    running.queue.purge()
    assert not running.client.keys(f"qe:{{{running.name}}}:*")


# What was never there, and what something else has written


def unchecked(campaign: LuaCampaign) -> CampaignCommands:
    """For while the laws do not hold: something is there that nobody of this campaign has written."""
    return CampaignCommands(campaign.link, campaign.name, campaign.queue.uid)


def leave_behind(campaign: LuaCampaign) -> None:
    """What a campaign of this name had, and an earlier version did not purge."""
    column = campaign.queue.keys.column
    campaign.client.hset(column("reports"), "1:1", f"1 {BASE_MS}\n9 1 1 {{}}\n")
    campaign.client.hset(column("report_heads"), "1", "1 9 1 1 1 0 1 11")
    campaign.client.xadd(column("reported"), {"ids": "1"})
    campaign.client.hset(column("stops"), "1", "5")
    campaign.client.hset(column("checkpoints"), "1", "1 1 here")
    campaign.client.zadd(column("give_backs"), {"1": 12})
    campaign.client.hset(column("time_lacks"), "1", "3 5")


@pytest.mark.parametrize("begin", ["report", "stop", "release"])
def test_nothing_of_an_earlier_campaign_of_the_name_is_shown(campaign, begin):
    campaign.add(2)
    leave_behind(campaign)
    campaign.queue.repeating = False
    lease, other = unchecked(campaign).settle(
        "w1", [], lease_ms=60_000, request="a-1", room=2, prefetch=0, now=0.0
    ).leases
    assert (lease.stop, lease.checkpoint) == (False, "")
    if begin == "report":
        campaign.told("w1", other, [(1, 0)])
    elif begin == "stop":
        campaign.queue.stop([2])
    else:
        campaign.queue.release("w1", [Release(2, 1, "drain")])
    assert campaign.queue.reports_of(1) == []
    assert campaign.queue.stops_of([1]) == [False]
    assert campaign.queue.checkpoints_of([1]) == [None]
    assert [job for job, _ in campaign.queue.give_backs(1)] in ([], [2])


def test_a_new_campaign_begins_without_what_an_earlier_one_left(link, make_campaign):
    old = make_campaign()
    leave_behind(old)
    old.client.delete(old.queue.keys.meta)
    new = LuaCampaign(link, old.name)
    assert not new.client.exists(*(new.queue.keys.column(name) for name in EXTRA_COLUMNS))


@pytest.mark.parametrize("name", EXTRA_COLUMNS)
def test_a_column_of_another_type_stops_nothing(make_campaign, name):
    made = make_campaign(max_losses=1, retry_first_ms=0)
    queue = unchecked(made)
    key = queue.keys.column(name)
    made.add(6)
    made.lease(room=6)
    made.told("w1", (6, 1), [(1, 0)], checkpoint="1 here")

    def damage() -> None:
        made.client.delete(key)
        made.client.set(key, "garbage")

    def settle(*settlements):
        return queue.settle(
            "w1", settlements, lease_ms=60_000, request="", room=0, prefetch=0, now=1000.0
        ).verdicts

    damage()
    assert queue.stops_of([1]) == [False]
    assert queue.checkpoints_of([1]) == [None]
    assert queue.reports_of(1) == []
    assert queue.give_backs(0) == []
    assert queue.reported_after("1-1")[0] in (None, set())
    assert queue.extend("w1", 60_000, [(1, 1)]).stops == []
    assert settle(settlement((1, 1))) == ["recorded"]
    assert settle(settlement((2, 1), Outcome.ERROR)) == ["recorded"]
    assert queue.cancel([3]) == [3]
    assert queue.retry([2, 3]) == [2, 3]
    assert queue.release("w1", [Release(4, 1, "drain", True)]) == 1
    damage()
    assert queue.report("w1", [batch((5, 1), [(1, 0)], looks=True, checkpoint="1 here")]) == [True]
    assert [number for number, _ in queue.reports_of(5)] == [1]
    damage()
    assert queue.stop([5]).asked == [5]
    damage()
    assert queue.reclaim(grace_ms=0, worker="w1").ids == [5, 6]
    assert queue.snapshot().conserved


@pytest.mark.parametrize(
    "value",
    [
        "", "garbage", "1 1 1", "1 1 999999999999 1 1 1 1 1", "9" * 400 + " 1 1 1 1 1 1 1",
        "-1 1 1 1 1 1 1 1", "1 " + "9" * 15 + " 1 1 1 1 1 1",
    ],
)  # fmt: skip
def test_a_damaged_head_reads_as_none(running, value):
    running.queue.repeating = False
    running.told("w1", (1, 1), [(1, 0)])
    running.client.hset(running.queue.keys.column("report_heads"), "1", value)
    assert running.queue.report_heads([1]) == [None]
    assert running.queue.reports_of(1) == []
    assert list(running.queue.reporting_ids()) == []
    assert running.queue.report("w1", [batch((1, 1), [(2, 0)]), batch((2, 1), [(1, 0)])]) == [True, True]
    assert told(running) == [(1, 2)]
    assert told(running, 2) == [(1, 1)]


@pytest.mark.parametrize("value", [None, "", "garbage", "1 x\n1 1 1 {}\n", "7 5\n1 1 1 {}\n", "1 5"])
def test_a_damaged_block_is_left_as_it_is(running, value):
    running.told("w1", (1, 1), [(1, 0)])
    key = running.queue.keys.column("reports")
    running.client.hdel(key, "1:1") if value is None else running.client.hset(key, "1:1", value)
    queue = unchecked(running)
    assert queue.report("w1", [batch((1, 1), [(2, 0)])]) == [True]
    assert [number for number, _ in queue.reports_of(1)][-1] == 2
    # Too many of them, too.
    assert queue.report("w1", [batch((1, 1), [(n, 0) for n in range(3, 10_050)])]) == [True]
    numbers = [number for number, _ in queue.reports_of(1)]
    assert numbers[-1] == 10_049
    assert 4000 < len(numbers) < 6000


def test_a_damaged_line_costs_itself_alone():
    at = datetime.fromtimestamp(5.001, UTC)
    damaged = b'2 1 1 {"a":"b"}\n3 1 1 [1]\n4 999999999999999999 1 {}\n5 1 2 {"a":true}\n'
    block = b'3 5000\nx\n1 1 1 {"a":1}\n' + damaged
    assert parse_block(block) == [(1, Report(1, {"a": 1}, 3, at))]
    assert parse_block(b"") == parse_block(b"3\n1 1 1 {}\n") == parse_block(b"\xff \xff\n") == []


def test_a_checkpoint_that_something_else_has_written_is_none(running):
    running.told("w1", (2, 1), checkpoint="1 here")
    running.client.hset(running.queue.keys.column("checkpoints"), "1", b"\xff garbage")
    running.die("w1")
    found = {lease.id: lease.checkpoint for lease in running.settle("w2", room=3).leases}
    assert found == {1: "", 2: "1 1 here", 3: ""}
    assert running.queue.checkpoints_of([1]) == [None]
    assert running.told("w2", (1, 2), checkpoint="1 here")
    assert running.queue.checkpoints_of([1]) == ["2 1 here"]


def test_a_meta_that_has_lost_the_mark_begins_anew(running):
    running.told("w1", (1, 1), [(1, 0)])
    running.client.hdel(running.queue.keys.meta, "extras")
    queue = unchecked(running)
    assert queue.report("w1", [batch((1, 1), [(2, 0)])]) == [True]
    assert told(running) == [(1, 2)]


# Rights


@pytest.mark.parametrize("user", ["driver", "worker"])
def test_the_users_of_a_group_may_do_all_this(campaign, user):
    """No call that only fails in silence: a damaged column and a right that is missing read the same."""
    name, password = f"a-{user}", "a-password"
    client = campaign.client
    client.execute_command("ACL", "SETUSER", name, "reset", *rights_of(user, password).split(" "))
    access = campaign.link.access
    own = Link(replace(access, url=re.sub(r"://[^@]*@", f"://{name}:{password}@", access.url)), name="test")
    try:
        assert own.call(lambda c: c.hlen(campaign.queue.keys.meta))
        queue = CampaignCommands(own, campaign.name, campaign.queue.uid)
        campaign.add(2)
        campaign.lease(room=2)
        client.execute_command("ACL", "LOG", "RESET")
        points = [(n, 0) for n in range(1, 10_002)]
        assert queue.report("w1", [batch((1, 1), points, looks=True, checkpoint="1 here")]) == [True]
        cursor = queue.newest_hint()
        assert queue.stop([1, 2]).looking == [1]
        assert queue.extend("w1", 60_000, [(1, 1)]).stops == [1]
        assert queue.release("w1", [Release(2, 1, "drain", True)]) == 1
        assert queue.report("w1", [batch((1, 1), [(10_002, 0)])]) == [True]
        assert len(queue.reports_of(1)) == 5002
        assert queue.reported_after(cursor)[0] == {1}
        assert list(queue.reporting_ids()) == [1]
        assert queue.give_backs(1) == [(2, 1)]
        assert queue.stops_of([1]) == [True]
        assert queue.checkpoints_of([1]) == ["1 1 here"]
        assert queue.cancel([1]) == [1]
        assert queue.retry([1]) == [1]
        assert queue.stops_of([1]) == [False]
        assert client.execute_command("ACL", "LOG") == [], "nothing was denied"
    finally:
        own.close()
        client.execute_command("ACL", "DELUSER", name)
