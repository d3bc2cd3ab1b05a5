"""What running attempts have told, until the server has it."""

from __future__ import annotations

import json

import pytest

from queue_eval.runtime.pipe import Kind
from workers.executors.signs import Sign, parse_sign
from workers.state.signs import MAX_WAITING, Signs

TOKEN = (7, 2)
PROOFS = {TOKEN: ("life-1", "digest")}


def _points(count: int, *, first: int = 0, dropped: int = 0) -> Sign:
    lines = [b"%d %d {}\n" % (step, step) for step in range(first, first + count)]
    return Sign(TOKEN, Kind.POINTS, began_at=10.0, dropped=dropped, lines=lines)


def _numbers(lines: bytes) -> list[int]:
    return [int(line.split()[0]) for line in lines.splitlines()]


def test_points_are_numbered_over_what_was_dropped():
    signs = Signs()
    assert signs.due_at() is None
    signs.add(_points(2), "life-1")
    signs.add(_points(2, first=10, dropped=5), "life-1")
    assert signs.due_at() is not None
    (batch,) = signs.take(1000.0, PROOFS)
    assert batch.lines == b"1 0 0 {}\n2 1 1 {}\n8 10 10 {}\n9 11 11 {}\n"
    assert (batch.id, batch.attempt, batch.request, batch.base_ms) == (7, 2, "life-1", 11_000)
    assert batch.dropped == 5
    assert signs.take(1000.0, PROOFS) == []
    assert signs.due_at() is None


@pytest.mark.parametrize("more", [0, 1])
def test_too_many_points_are_thinned_and_counted(more):
    signs = Signs()
    signs.add(_points(MAX_WAITING + 1 + more), "life-1")
    (batch,) = signs.take(0.0, PROOFS)
    numbers = _numbers(batch.lines)
    assert (numbers[0], numbers[-1]) == (1, MAX_WAITING + 1 + more)
    assert numbers[1] == 3
    assert len(numbers) + batch.dropped == MAX_WAITING + 1 + more


def test_what_could_not_be_sent_comes_before_what_came_since():
    signs = Signs()
    signs.add(_points(2), "life-1")
    signs.add(Sign(TOKEN, Kind.SAVED, text="1 place"), "life-1")
    batches = signs.take(0.0, PROOFS)
    signs.add(_points(1, first=2), "life-1")
    signs.add(Sign(TOKEN, Kind.SAVED, text="2 place"), "life-1")
    signs.put_back(batches)
    (batch,) = signs.take(0.0, PROOFS)
    assert _numbers(batch.lines) == [1, 2, 3]
    assert batch.checkpoint == "2 place"


def test_a_lease_that_is_not_ours_any_more_gets_no_points():
    signs = Signs()
    signs.add(_points(2), "life-1")
    batches = signs.take(0.0, PROOFS)
    signs.add(_points(2, first=2), "life-1")
    signs.mark_taken(batches, [False], PROOFS)
    assert signs.take(0.0, PROOFS) == []


def test_points_of_an_attempt_that_has_ended_are_sent_under_its_own_lease():
    signs = Signs()
    signs.add(_points(2), "life-1")
    signs.ended(TOKEN)
    (batch,) = signs.take(0.0, {})
    assert batch.request == "life-1"
    signs.mark_taken([batch], [True], {})
    assert signs.ended(TOKEN) == signs.ended((1, 1))


def test_a_lease_that_replaced_the_first_one_is_the_proof():
    signs = Signs()
    signs.add(_points(1), "life-1")
    (batch,) = signs.take(0.0, {TOKEN: ("life-2", "digest")})
    assert batch.request == "life-2"


def test_that_an_attempt_has_looked_is_told_once():
    signs = Signs()
    signs.add(Sign(TOKEN, Kind.LOOKED), "life-1")
    (batch,) = signs.take(0.0, PROOFS)
    assert batch.looks
    signs.add(Sign(TOKEN, Kind.LOOKED), "life-1")
    assert signs.due_at() is None


@pytest.mark.parametrize(
    "header",
    [
        ["points", 1, 1, 0],
        ["points", 1, 1, -5, 0],
        ["points", 1, 1, 0, 2**60],
        ["points", 1.5, 1, 0, 0],
        ["points", True, 1, 0, 0],
        ["looked", "1", 1],
        ["looked", 1],
        ["saved", 1, 1, 1, "two words"],
        ["saved", 1, 1, 1, ["x"]],
        ["report", 1, 1],
        [[], 1, 1],
        [],
    ],
    ids=json.dumps,
)
def test_what_is_no_sign_is_refused(header):
    with pytest.raises(ValueError, match="not a"):
        parse_sign(header, b"")
