"""tell: the newest part of what running attempts print, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.live_output import LIVE_BYTES, LiveHead, LiveOutput
from queue_eval.model.moves import Printed, Release
from queue_eval.model.states import Outcome
from tests.support.lua_campaign import LuaCampaign, is_gone, settlement


@pytest.fixture
def running(campaign):
    """A campaign whose jobs 1 and 2 run on w1, and of which job 3 waits."""
    campaign.add(3)
    campaign.lease(room=2)
    return campaign


def live(campaign: LuaCampaign, job: int = 1) -> LiveOutput | None:
    (output,) = campaign.queue.live_outputs_of([job])
    return output


def test_what_is_told_is_read(running):
    assert running.tell("w1", (1, 1), 4, b"one\n")
    assert live(running) == LiveOutput(1, 4, b"one\n")
    assert live(running, 2) is None
    assert running.queue.live_heads() == {1: LiveHead(1, 4)}


def test_any_bytes(running):
    text = bytes(range(256)) + b"\n1 5\n"
    assert running.tell("w1", (1, 1), len(text), text)
    assert live(running).text == text


def test_what_follows_is_appended_and_the_newest_stays(running):
    running.tell("w1", (1, 1), 3, b"abc")
    running.tell("w1", (1, 1), 6, b"def")
    assert live(running) == LiveOutput(1, 6, b"abcdef")
    running.tell("w1", (1, 1), 8, b"cdefgh")
    assert live(running) == LiveOutput(1, 8, b"abcdefgh")
    running.tell("w1", (1, 1), 8 + LIVE_BYTES - 2, b"x" * (LIVE_BYTES - 2))
    assert live(running) == LiveOutput(1, LIVE_BYTES + 6, b"gh" + b"x" * (LIVE_BYTES - 2))


def test_after_a_gap_it_begins_anew(running):
    running.tell("w1", (1, 1), 3, b"abc")
    running.tell("w1", (1, 1), 1_000_000, b"xyz")
    assert live(running) == LiveOutput(1, 1_000_000, b"xyz")
    assert live(running).left_out == 999_997


def test_an_older_call_that_comes_late_changes_nothing(running):
    running.tell("w1", (1, 1), 6, b"abcdef")
    assert running.tell("w1", (1, 1), 3, b"abc")
    assert live(running) == LiveOutput(1, 6, b"abcdef")


def test_more_than_is_kept_is_cut(running):
    running.tell("w1", (1, 1), 50_000, b"a" * 30_000 + b"b" * 20_000)
    assert live(running) == LiveOutput(1, 50_000, b"b" * LIVE_BYTES)


def test_several_in_one_call(running):
    printed = [Printed(job, 1, "", 2, b"%d\n" % job) for job in (2, 3, 1)] + [Printed(1, 1, "", 3, b".")]
    assert running.queue.tell("w1", printed) == [True, False, True, True]
    assert [live(running, job) for job in (1, 2)] == [LiveOutput(1, 3, b"1\n."), LiveOutput(1, 2, b"2\n")]


@pytest.mark.parametrize(
    "token", [(1, 2), (1, 0), (3, 1), (99, 1)], ids=["newer", "older", "not held", "unknown"]
)
def test_only_the_token_that_is_held_is_taken(running, token):
    assert running.tell("w1", token, 1, b"x") is False
    assert running.tell("w2", (1, 1), 1, b"x") is False
    assert not any(running.columns().extras)


@pytest.mark.parametrize("total", [-1, 10**15, "x", "", 1.5, 0])
def test_a_total_that_is_none_is_not_taken(running, total):
    assert running.tell("w1", (1, 1), total, b"x") is False
    assert not any(running.columns().extras)


def test_an_equal_token_of_another_lease_is_not_held(campaign):
    campaign.add(1)
    (lease,) = campaign.settle("w1", room=1, request="a-1").leases
    assert campaign.tell("w1", lease._replace(request="a-2"), 1, b"x") is False
    assert campaign.tell("w1", lease, 1, b"x") is True


def test_the_next_attempt_begins_anew(running):
    running.tell("w1", (1, 1), 900, b"old")
    running.die("w1")
    assert live(running) is None
    assert (1, 2) in running.lease("w2", room=2)
    assert running.tell("w1", (1, 1), 950, b"old") is False, "another has taken it over"
    assert running.tell("w2", (1, 2), 4, b"new\n")
    assert live(running) == LiveOutput(2, 4, b"new\n")


ENDS: dict[str, Callable[[LuaCampaign], object]] = {
    "success": lambda campaign: campaign.ok("w1", (1, 1)),
    "failure": lambda campaign: campaign.fail("w1", (1, 1)),
    "loss": lambda campaign: campaign.fail("w1", (1, 1), Outcome.LOST),
    "death": lambda campaign: campaign.die("w1"),
    "release": lambda campaign: campaign.queue.release("w1", [Release(1, 1)]),
    "drain": lambda campaign: campaign.queue.release("w1", [Release(1, 1, "drain")], leave=True),
    "cancel": lambda campaign: campaign.queue.cancel([1]),
    "purge": lambda campaign: campaign.queue.purge(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_it_goes_with_the_attempt(make_campaign, end, max_attempts):
    campaign = make_campaign(max_attempts=max_attempts)
    campaign.add(2)
    campaign.lease(room=2)
    campaign.tell("w1", (1, 1), 1, b"x")
    campaign.tell("w1", (2, 1), 1, b"y")
    ENDS[end](campaign)
    assert live(campaign) is None
    assert (live(campaign, 2) is None) == (end in ("death", "purge"))
    assert (2 in campaign.queue.live_heads()) == (end not in ("death", "purge"))


def test_a_success_of_an_older_attempt_ends_the_newer_one(running):
    running.die("w1")
    assert (1, 2) in running.lease("w2", room=2)
    running.tell("w2", (1, 2), 1, b"x")
    assert running.settle("w1", settlement((1, 1))).verdicts == ["recorded"]
    assert live(running) is None


def test_what_an_attempt_printed_before_its_worker_died_is_on_record(make_campaign):
    campaign = make_campaign(max_losses=2)
    campaign.add(1)
    campaign.lease("w1")
    campaign.tell("w1", (1, 1), 708, b"epoch 1\n")
    campaign.die("w1")
    (lost,) = campaign.queue.failures(1)
    assert (lost["cause"], lost["output"]) == ("lost", "\n[... 700 bytes left out ...]\nepoch 1\n")
    campaign.lease("w2")
    campaign.tell("w2", (1, 2), 8, b"epoch 2\n")
    campaign.die("w2")
    assert campaign.queue.outputs_of([1]) == [b"epoch 2\n"]


def test_a_gone_campaign_takes_nothing(running):
    running.queue.purge()
    assert is_gone(lambda: running.tell("w1", (1, 1), 1, b"x"))
    assert not running.client.keys(f"qe:{{{running.name}}}:*")


@pytest.mark.parametrize("damage", [b"", b"1", b"x 2\nab", b"1 x\nab", b"1 " + b"9" * 15 + b"\nab"])
def test_a_damaged_value_is_written_over(running, damage):
    plain = CampaignCommands(running.link, running.name, running.queue.uid)
    running.tell("w1", (1, 1), 1, b"x")
    running.client.hset(running.queue.keys.column("live"), "1", damage)
    assert live(running) is None
    assert plain.tell("w1", [Printed(1, 1, "", 5, b"abc")]) == [True]
    assert live(running) == LiveOutput(1, 5, b"abc")


def test_a_column_of_another_type_is_replaced(running):
    column = running.queue.keys.column
    running.tell("w1", (2, 1), 1, b"y")
    for name in ("live", "live_heads"):
        running.client.delete(column(name))
        running.client.set(column(name), "damaged")
    assert (live(running), running.queue.live_heads()) == (None, {})
    assert running.tell("w1", (1, 1), 1, b"x")
    assert live(running) == LiveOutput(1, 1, b"x")
