"""The state that a worker's threads share, as several of them change it at once."""

from __future__ import annotations

import sys
from typing import Any, cast

from queue_eval.campaign.commands import CampaignQueue
from queue_eval.model.moves import Settled
from queue_eval.model.states import Method
from queue_eval.runtime.pipe import Setup
from workers.book import Book, Trade
from workers.executors.protocol import Plan


def test_a_call_that_was_under_way_does_not_take_a_refusal_back():
    """Else drivers would never be told why nobody serves them."""
    book = Book()
    queue = CampaignQueue(cast("Any", None), "c", "uid")
    plan = Plan(Method.THREAD, cast("Any", None), 1, None, sys.executable, revision=1)
    book.serve(queue, plan)
    ((served, _),) = book.holdings()
    trade = Trade(served, [], room=1, prefetch=0, slots=1)
    nothing = Settled(leases=[], next_due_ms=None, now_ms=0, revision=1, verdicts=[])

    book.cannot_serve("c", "the call failed")
    book.leased(trade, plan, nothing)
    assert book.reasons() == {}

    book.refuse("c", "uid", 2, "its signature is not valid")
    book.withdraw("c")
    book.leased(trade, plan, nothing)
    assert book.reasons() == {"c": "its signature is not valid"}


def test_a_campaign_that_was_left_since_its_turn_was_taken_is_not_traded_with():
    """A call would make the worker attend it again, and lease jobs that nobody here knows of."""
    book = Book()
    setup = Setup("run:run", None, (), {}, threads=1)
    plan = Plan(Method.THREAD, setup, 1, None, sys.executable, revision=1)
    for name in ("first", "second"):
        book.serve(CampaignQueue(cast("Any", None), name, f"uid of {name}"), plan)
    turn = book.take_turn()
    assert sorted(served.name for served in turn) == ["first", "second"]
    assert book.leave_idle(turn[1].name) is not None
    trades = [book.prepare(served) for served in turn]
    assert [trade and trade.served.name for trade in trades] == [turn[0].name, None]
    # What is traded with is not left.
    assert book.leave_idle(turn[0].name) is None
    book.traded(turn[0])
    assert book.leave_idle(turn[0].name) is not None
