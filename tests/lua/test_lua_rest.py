"""A campaign is noted as resting when it is over, and only then; whoever adds jobs to it is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.resting import REST_AFTER_S, Look, all_resting, lay_to_rest, look_at_all, wake
from queue_eval.campaign.scripts import script
from queue_eval.model.states import Outcome
from queue_eval.transport.link import Link
from tests.model.still_server import StillLink
from tests.support.lua_campaign import FIELDS
from tests.support.still_campaign import StillCampaign

REST_MS = round(REST_AFTER_S * 1000)

class Resting(StillCampaign):
    def finish(self) -> None:
        self.add()
        (token,) = self.lease()
        self.ok("w1", token)

    def rests(self, *, may_rest: bool = True) -> bool:
        (look,) = look_at_all(self.link, [self.name], may_rest=may_rest)
        assert isinstance(look, Look)
        assert look.uid == self.queue.uid
        return look.rests

    def is_noted(self) -> bool:
        return bool(self.client.hexists(self.queue.keys.meta, "resting"))

    def open(self) -> None:
        CampaignCommands.open(self.link, self.name, FIELDS, accept_change=False)


@pytest.fixture
def resting(link: Link) -> Iterator[Resting]:
    still = StillLink(link.access)
    yield Resting(still)
    still.client.delete(keys.RESTING)
    still.close()


def test_it_rests_a_while_after_the_last_job(resting: Resting) -> None:
    resting.finish()
    resting.pass_time(REST_MS - 1)
    assert not resting.rests()
    resting.pass_time(1)
    assert not resting.rests(may_rest=False)
    assert not resting.is_noted()
    assert resting.rests()
    assert resting.rests()
    assert resting.is_noted()


def test_one_that_was_only_opened_rests_as_well(resting: Resting) -> None:
    resting.pass_time(REST_MS)
    resting.open()
    assert not resting.rests()
    resting.pass_time(REST_MS)
    assert resting.rests()


@pytest.mark.parametrize("where", ["pending", "scheduled", "held", "again"])
def test_no_campaign_rests_while_a_job_is_open(resting: Resting, where: str) -> None:
    resting.finish()
    if where == "again":
        (token,) = resting.add() and resting.lease()
        resting.fail("w1", token, Outcome.ERROR)
        resting.queue.retry([2])
    else:
        resting.add(delay_ms=10**9 if where == "scheduled" else 0)
        if where == "held":
            resting.lease()
    resting.pass_time(10 * REST_MS)
    assert not resting.rests()
    assert not resting.is_noted()


def test_nor_one_whose_driver_wakes_nobody(resting: Resting) -> None:
    """A build that does not know of rest has opened it last."""
    resting.client.hincrby(resting.queue.keys.meta, "revision", 1)
    resting.pass_time(REST_MS)
    assert not resting.rests()
    resting.open()
    resting.pass_time(REST_MS)
    assert resting.rests()


def test_nor_one_whose_clock_was_set_back(resting: Resting) -> None:
    """Until the time of its last change has come again."""
    resting.finish()
    resting.pass_time(-3_600_000)
    assert not resting.rests()


@pytest.mark.parametrize("move", ["enqueue", "reuse", "joined", "retry", "open"])
def test_whoever_adds_jobs_is_told_and_wakes_it(resting: Resting, move: str) -> None:
    resting.enqueue({"x": "first"}, reuse=True)
    (token,) = resting.lease()
    resting.fail("w1", token, Outcome.ERROR)
    resting.pass_time(REST_MS)
    assert resting.rests()
    assert lay_to_rest(resting.link, [resting.name]) == [resting.name]
    moves = {
        "enqueue": resting.add,
        "reuse": lambda: resting.enqueue({"x": "other"}, reuse=True),
        "joined": lambda: resting.enqueue({"x": "first"}, reuse=True),
        "retry": lambda: resting.queue.retry([1]),
        "open": resting.open,
    }
    moves[move]()
    assert resting.name not in all_resting(resting.link)
    assert not resting.is_noted()


def test_it_is_told_until_it_is_woken(resting: Resting) -> None:
    """The first who was told has died: the second call, or the next driver, is told again."""
    resting.pass_time(REST_MS)
    assert resting.rests()

    for sequence in (1, 2):
        reply = resting.link.run_script(
            script("enqueue"), resting.queue.keys.columns, resting.queue.uid, "d", sequence, 0, 0, 0, 1, 0,
            "{}", "f",
        )
        assert reply[5] == 1
    wake(resting.link, resting.name)
    reply = resting.link.run_script(
        script("enqueue"), resting.queue.keys.columns, resting.queue.uid, "d", 3, 0, 0, 0, 1, 0, "{}", "f"
    )
    assert reply[5] == 0


def test_jobs_that_come_while_it_is_laid_to_rest(resting: Resting) -> None:
    """Noted, and woken before it is on the register: the second look takes it off."""
    resting.pass_time(REST_MS)
    assert resting.rests()
    resting.add()
    assert lay_to_rest(resting.link, [resting.name]) == []
    assert resting.name not in all_resting(resting.link)


def test_what_is_gone_rests_not(resting: Resting) -> None:
    resting.pass_time(REST_MS)
    assert resting.rests()
    resting.queue.purge()
    (look,) = look_at_all(resting.link, [resting.name], may_rest=True)
    assert look == Look("", -1, False)
    assert lay_to_rest(resting.link, [resting.name]) == []
    assert resting.client.exists(*resting.queue.keys.columns) == 0
