"""The documents that views draw, of a campaign on a real server."""

from __future__ import annotations

import itertools
import json
from contextlib import closing

import pytest

from queue_eval.model.states import Outcome, State
from queue_eval.views import curves, panels, strips
from queue_eval.views.curves import MOST_POINTS, Curves
from queue_eval.views.standing import StandingReader
from tests.support.hand_worker import HandWorker


@pytest.fixture
def worker(filled, server, campaign):
    with closing(HandWorker(server, campaign)) as worker:
        yield worker


@pytest.fixture
def search(filled, worker):
    """Jobs 1 to 5 have succeeded with 2, 5, 3, 9 and 4; 6 has failed; 7 runs, 8 waits."""
    filled.submit(*({"lr": 10.0**-n, "opt": "ab"[n % 2], "deep": {"n": n}, "same": 1} for n in range(8)))
    leases = worker.lease(7)
    for lease, value in zip(leases[:5], (2, 5, 3, 9, 4), strict=True):
        worker.finish(lease, {"objective": value, "loss": -value})
    worker.finish(leases[5], "ValueError: odd", Outcome.ERROR)
    (again,) = worker.lease(1)
    worker.finish(again, "ValueError: odd", Outcome.ERROR)
    return filled


def test_the_course_has_each_outcome_and_the_best_so_far(search):
    with closing(StandingReader(search.queue)) as reader:
        summary = reader.read().overview.summary
    drawn = panels.course(summary, None)
    assert (drawn["key"], drawn["number"]) == ("objective", [1, 2, 3, 4, 5, 6])
    assert drawn["failed"] == [0, 0, 0, 0, 0, 1]
    assert drawn["high"] == [2, 5, 3, 9, 4, None]
    assert (drawn["best"], drawn["best_id"]) == ([2, 5, 5, 9, 9, 9], [1, 2, 2, 4, 4, 4])
    lowest = panels.course(summary, "loss", "min")
    assert lowest["best"] == [-2, -5, -5, -9, -9, -9]
    assert {len(column) for column in drawn.values() if isinstance(column, list)} == {6}
    assert panels.course(summary, "nothing")["best"] == [None] * 6


def test_the_overview(search):
    with closing(StandingReader(search.queue)) as reader:
        document = panels.overview(reader.read())
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["keys"], document["key"]) == (["objective", "loss"], "objective")
    assert (document["best"]["id"], document["best"]["value"]) == (4, 9)
    assert document["best"]["config"]["opt"] == "b"
    (group,) = document["failures"]
    assert (group["line"], group["count"], group["newest"]) == ("ValueError: odd", 1, [6])
    assert document["counts"]["running"] == 1
    assert document["planned"] == 8


def test_the_sample_shows_what_differs(search):
    with closing(StandingReader(search.queue)) as reader:
        summary = reader.read().overview.summary
    drawn = panels.sample(search.queue, summary, None)
    assert drawn["columns"] == ["lr", "opt", "deep.n"]
    assert [row["id"] for row in drawn["rows"]] == [1, 2, 3, 4, 5]
    assert drawn["rows"][1] == {"id": 2, "value": 5, "config": {"lr": 0.1, "opt": "b", "deep.n": 1}}


def test_how_many_waited(search):
    with closing(StandingReader(search.queue)) as reader:
        standing = reader.read()
    assert panels.depths(search.queue, standing.snapshot, standing.overview.summary) == [7, 6, 5, 4, 3, 2]


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"a": 1, "b": 0.5, "c": True}, {"a": 1, "b": 0.5, "c": True}),
        ({"d": None, "e": "x"}, {"d": None, "e": "x"}),
        ({"a": {"b": 1, "c": {"d": 1}}}, {"a.b": 1}),
        ({"a": [1], "b": float("nan"), "c": 10**400, "d": "x" * 61}, {}),
    ],
)
def test_what_of_a_config_is_drawn(config, shown):
    assert panels.flat(config) == shown


def test_a_key_with_too_many_words_is_left_out():
    configs = [{"name": f"run-{n}", "kind": "ab"[n % 2]} for n in range(30)]
    assert panels.shown_columns(configs) == ["kind"]


# Curves -------------------------------------------------------------------------------------------------


def test_curves_grow_and_end(filled, worker):
    filled.submit({"x": 1}, {"x": 2})
    one, two = worker.lease(2)
    worker.report(one, (1, {"loss": 3.0, "accuracy": 0.1}), (2, {"loss": 2.0}))
    reader, drawn = Curves(filled.queue), StandingReader(filled.queue)
    standing = drawn.read()
    assert reader.chosen(standing.snapshot, standing.overview.summary, None, "max") == [1]
    first = reader.read(standing.snapshot, [1, 2])
    assert (first["names"], first["name"]) == (["loss", "accuracy"], "loss")
    assert [(c["id"], c["state"], c["points"]) for c in first["curves"]] == [(1, "running", [[1, 3], [2, 2]])]
    worker.report(one, (3, {"loss": float("nan")}))
    worker.report(two, (1, {"loss": 5.0}))
    worker.finish(one, 1.0)
    standing = drawn.read()
    second = reader.read(standing.snapshot, [1, 2], "loss")
    assert [(c["id"], c["state"], c["points"]) for c in second["curves"]] == [
        (1, "finished", [[1, 3], [2, 2], [3, None]]), (2, "running", [[1, 5]]),
    ]  # fmt: skip
    assert reader.chosen(standing.snapshot, standing.overview.summary, "", "max") == [2, 1]


def test_only_new_reports_are_read(filled, worker, monkeypatch):
    filled.submit({"x": 1})
    (lease,) = worker.lease(1)
    worker.report(lease, (1, {"loss": 3.0}))
    reader, snapshot = Curves(filled.queue), filled.queue.snapshot()
    reader.read(snapshot, [1])
    asked = []
    monkeypatch.setattr(filled.queue, "reports_of", lambda job, after: asked.append((job, after)) or [])
    reader.read(snapshot, [1])
    assert asked == []
    worker.report(lease, (2, {"loss": 3.0}))
    reader.read(snapshot, [1])
    assert asked == [(1, (1, 1))]


def test_a_long_curve_is_thinned(filled, worker):
    filled.submit({"x": 1})
    (lease,) = worker.lease(1)
    worker.report(lease, *((step, {"loss": float(step)}) for step in range(3000)))
    (curve,) = Curves(filled.queue).read(filled.queue.snapshot(), [1])["curves"]
    steps = [step for step, _ in curve["points"]]
    assert MOST_POINTS // 2 < len(steps) <= 2 * MOST_POINTS
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2 * 3000 / MOST_POINTS


def test_a_value_that_nobody_reports(filled, worker):
    filled.submit({"x": 1})
    (lease,) = worker.lease(1)
    worker.report(lease, (1, {"loss": 3.0}))
    assert Curves(filled.queue).read(filled.queue.snapshot(), [1], "other")["name"] == "loss"
    assert curves.Curves(filled.queue).read(filled.queue.snapshot(), [])["curves"] == []


# Strips -------------------------------------------------------------------------------------------------


def span(start_ms: int, end_ms: int | None, job: int, worker: str = "w") -> strips.Span:
    return strips.Span(worker, start_ms, end_ms, job, "s" if end_ms else "r")


def test_attempts_that_overlap_lie_in_lanes_of_their_own(filled):
    spans = [span(0, 10, 1), span(0, 20, 2), span(10, 30, 3), span(25, 40, 4), span(5, 6, 5, "other")]
    drawn = strips.strips(filled.queue, filled.queue.snapshot(), spans)
    assert [(lane["worker"], lane["lane"], [s[2] for s in lane["spans"]]) for lane in drawn["lanes"]] == [
        ("other", 1, [5]), ("w", 1, [1, 3]), ("w", 2, [2, 4]),
    ]  # fmt: skip
    assert (drawn["from_ms"], drawn["more_workers"]) == (0, 0)


def test_of_many_workers_those_are_shown_that_ran_most(filled):
    spans = [span(n, n + 1, n, f"w{n % 50}") for n in range(50)] + [span(99, 100, 99, "w49")]
    drawn = strips.strips(filled.queue, filled.queue.snapshot(), spans)
    assert drawn["more_workers"] == 50 - strips.MOST_WORKERS
    assert "w49" in {lane["worker"] for lane in drawn["lanes"]}


def test_what_runs_and_what_ended(search, worker):
    with closing(StandingReader(search.queue)) as reader:
        standing = reader.read()
        spans = reader.reader.spans()
        assert [(s.job, s.state) for s in spans] == [*((n, "s") for n in range(1, 6)), (6, "f")]
        held = search.queue.keys.held(worker.name)
        now_ms = standing.snapshot.now_ms
        search.link.client.hset(held, 7, f"1 abc-{now_ms - 5000} 1")
        (running,) = strips.running_spans(search.queue, standing.snapshot)
        assert (running.job, running.start_ms, running.end_ms) == (7, now_ms - 5000, None)
        worker.finish(worker.lease(1)[0], {"objective": 1})
        assert reader.read().snapshot.counts[State.SUCCEEDED] == 6
        assert [s.job for s in reader.reader.spans()][-1] == 8
