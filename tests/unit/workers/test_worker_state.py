"""The state that a worker's threads share, as several of them change it at once."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Lease, Settled
from queue_eval.model.states import Method
from queue_eval.runtime.pipe import Setup
from workers.executors.protocol import Plan
from workers.state.served_campaign import ServedCampaign
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


def served_by(state: WorkerState) -> ServedCampaign:
    setup = Setup("run:run", None, (), {}, threads=1)
    plan = Plan(Method.THREAD, setup, 1, None, sys.executable, revision=1)
    state.campaigns.serve(CampaignCommands(cast("Any", None), "c", "uid"), plan)
    ((served, _),) = state.campaigns.holdings()
    return served


def lease(state: WorkerState, served: ServedCampaign, *leases: Lease, **more: Any) -> None:
    reply = Settled(leases=[*leases], next_due_ms=None, now_ms=0, revision=1, verdicts=[], **more)
    state.leased(SettleCall(served, [], room=1, prefetch=0, slots=1), served.plan, reply)


def test_a_call_tells_how_long_a_job_may_run_here():
    of_about = pytest.approx
    for drains_in_s, expected in ((None, None), (1000, of_about(1000, abs=60)), (-5, of_about(-5, abs=60))):
        state = WorkerState(drains_at=None if drains_in_s is None else time.monotonic() + drains_in_s)
        call = state.prepare(served_by(state))
        assert call is not None
        assert call.left_s == expected


def test_a_worker_of_one_slot_listens_to_the_marker_of_shapes_once_it_has_seen_any():
    state = WorkerState()
    served = served_by(state)
    keys = served.queue.keys
    lease(state, served)
    assert keys.wake_wide not in state.wake_keys()
    lease(state, served, may_have_shapes=True)
    lease(state, served)
    assert state.wake_keys().keys() == {keys.wake, keys.wake_wide}
    lease(state, served, has_other_wide_jobs=True)
    assert state.wake_keys().keys() == {keys.wake}


@pytest.mark.parametrize(
    ("drains_in_s", "drains", "delayed", "lacks_time"),
    [
        (None, True, False, False), (1000.0, True, False, False), (-1.0, True, False, True),
        (None, False, True, False), (-1.0, False, True, False),
    ],
)  # fmt: skip
def test_what_gives_itself_back_lacks_time_only_when_that_is_why_the_worker_drains(
    drains_in_s: float | None, drains: bool, delayed: bool, lacks_time: bool
) -> None:
    state = WorkerState(drains_at=None if drains_in_s is None else time.monotonic() + drains_in_s)
    served = served_by(state)
    lease(state, served, Lease(1, 1, started=True, config=b"{}"))
    if drains:
        state.drain()
    state.given_back(served.lane_id, (1, 1), "", 0)
    ((_, (release,)),) = state.take_releases()
    assert (release.delayed, release.lacks_time) == (delayed, lacks_time)


def test_the_place_of_checkpoints_is_that_of_the_plan(tmp_path):
    """The last driver to open a campaign decides where its checkpoints lie."""
    state = WorkerState()
    served = served_by(state)
    assert served.checkpoint_place() == "", "no folder, no place"
    places = {}
    for name in ("a", "b", "a"):
        folder = tmp_path / name
        setup = served.plan.setup.replace(inside={"checkpoints": str(folder)})
        state.campaigns.serve(served.queue, replace(served.plan, setup=setup))
        places[name] = served.checkpoint_place()
        assert places[name] == (folder / ".place").read_text() == served.checkpoint_place()
    assert places["a"] != places["b"]
    (tmp_path / "file").touch()
    setup = served.plan.setup.replace(inside={"checkpoints": str(tmp_path / "file" / "below")})
    state.campaigns.serve(served.queue, replace(served.plan, setup=setup))
    assert served.checkpoint_place() == "", "where no folder can be made there is none"
