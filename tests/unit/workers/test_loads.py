"""How a worker steps aside for a campaign whose run function it cannot load, and how it comes back."""

from __future__ import annotations

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from workers.state.loads import PAUSE_S, Loads, Unloaded

UNLOADED = Unloaded(Settlement(1, 1, Outcome.ERROR, 0.0, 0.0, "", b"no"), "no")


def test_all_is_well():
    loads = Loads()
    loads.lease([(1, 1)])
    assert loads.job_limit([(1, 1)], 0.0) is None
    assert loads.pause_until(0.0) is None


def test_nothing_is_asked_for_before_it_is_judged():
    loads = Loads(unloaded=[UNLOADED])
    assert loads.job_limit([], 0.0) == 0
    assert loads.take_unloaded() == [UNLOADED]
    assert loads.take_unloaded() == []
    assert loads.job_limit([], 0.0) is None


def test_each_step_aside_is_twice_as_long_up_to_the_longest():
    loads, now = Loads(), 100.0
    pauses = []
    for _ in range(9):
        pause_s = loads.step_aside(now, "no")
        assert pause_s is not None
        pauses.append(pause_s)
        assert loads.step_aside(now + pause_s / 2, "still no") is None
        assert loads.job_limit([], now + pause_s / 2) == 0
        assert loads.pause_until(now) == now + pause_s
        now += pause_s
        assert loads.pause_until(now) is None
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (pauses[0], pauses[-1]) == PAUSE_S
    assert loads.reason == "still no"


def test_one_job_at_a_time_until_it_is_loaded():
    loads = Loads()
    loads.step_aside(0.0, "no")
    assert loads.job_limit([(9, 1)], 1.0) == 1  # what runs from before shows nothing
    loads.lease([(1, 1)])
    assert loads.job_limit([(9, 1), (1, 1)], 1.0) == 0
    assert loads.job_limit([(9, 1)], 1.0) == 1  # it was run by an old process
    loads.succeed(3)
    assert loads.job_limit([(1, 1)], 1.0) is None
    assert (loads.reason, loads.step_aside(1.0, "no")) == ("", 1.0)


def test_the_server_is_told_of_each_revision_once():
    loads = Loads()
    assert not loads.is_untold
    told = []
    for revision in (1, 1, 2, 2):
        loads.succeed(revision)
        told.append(loads.revision)
        loads.know(loads.revision, [])
        assert not loads.is_untold
    assert told == [1, None, 2, None]


def test_what_came_while_the_server_was_told_is_told_next():
    loads = Loads()
    loads.succeed(1)
    loads.note_source("a", "{}")
    before = (loads.revision, dict(loads.new_sources))
    loads.succeed(2)
    loads.note_source("b", "{}")
    loads.know(*before)
    assert (loads.revision, loads.new_sources) == (2, {"b": "{}"})
    loads.know(2, ["b"])
    loads.note_source("a", "{}")
    assert not loads.is_untold


@pytest.mark.parametrize("reason", ["", "no"])
def test_a_function_that_nobody_can_load_is_not_waited_for(reason):
    loads = Loads()
    loads.step_aside(0.0, "no")
    assert loads.blame_function(reason)
    assert not loads.blame_function(reason)
    assert loads.reason == reason
    assert loads.job_limit([], 0.0) is None
    assert loads.step_aside(0.0, "no") == 1.0
    assert loads.blame_function(reason)
    loads.reset()
    assert loads.reason == ""
    assert loads.blame_function(reason)
