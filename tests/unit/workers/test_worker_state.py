"""The state that a worker's threads share, as several of them change it at once."""

from __future__ import annotations

import sys
from typing import Any, cast

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Settled
from queue_eval.model.states import Method
from queue_eval.runtime.pipe import Setup
from workers.executors.protocol import Plan
from workers.state.worker_state import SettleCall, WorkerState


def test_a_call_that_was_under_way_does_not_take_a_refusal_back():
    """Else drivers would never be told why nobody serves them."""
    state = WorkerState()
    queue = CampaignCommands(cast("Any", None), "c", "uid")
    plan = Plan(Method.THREAD, cast("Any", None), 1, None, sys.executable, revision=1)
    state.campaigns.serve(queue, plan)
    ((served, _),) = state.campaigns.holdings()
    call = SettleCall(served, [], room=1, prefetch=0, slots=1)
    nothing = Settled(leases=[], next_due_ms=None, now_ms=0, revision=1, verdicts=[])

    state.campaigns.cannot_serve("c", "the call failed")
    state.leased(call, plan, nothing)
    assert state.campaigns.reasons() == {}

    state.campaigns.refuse("c", "uid", 2, "its signature is not valid")
    state.campaigns.withdraw("c")
    state.leased(call, plan, nothing)
    assert state.campaigns.reasons() == {"c": "its signature is not valid"}


def test_a_campaign_that_was_left_since_its_turn_was_taken_is_not_traded_with():
    """A call would make the worker attend it again, and lease jobs that nobody here knows of."""
    state = WorkerState()
    setup = Setup("run:run", None, (), {}, threads=1)
    plan = Plan(Method.THREAD, setup, 1, None, sys.executable, revision=1)
    for name in ("first", "second"):
        state.campaigns.serve(CampaignCommands(cast("Any", None), name, f"uid of {name}"), plan)
    turn = state.take_turn()
    assert sorted(served.name for served in turn) == ["first", "second"]
    assert state.leave_idle(turn[1].name) is not None
    calls = [state.prepare(served) for served in turn]
    assert [call and call.served.name for call in calls] == [turn[0].name, None]
    # What is traded with is not left.
    assert state.leave_idle(turn[0].name) is None
    state.call_ended(turn[0])
    assert state.leave_idle(turn[0].name) is not None
