"""Curves of reports: bounded, of the newest attempt only, with the main value first."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from queue_eval.model.report import Report
from queue_eval.top.report_curves import MOST_POINTS, Curve

AT = datetime(2027, 1, 1, tzinfo=UTC)


def reports(count, attempt=1, first=1, **more):
    return [
        (n, Report(n, {"loss": float(n)} | more, attempt, AT)) for n in range(first, first + count)
    ]


def test_a_long_curve_keeps_its_form():
    curve = Curve()
    for first in range(1, 10_001, 100):
        curve.add(reports(100, first=first))
    values = curve.values("loss")
    assert MOST_POINTS <= len(values) <= 2 * MOST_POINTS
    assert {b - a for a, b in pairwise(values)} == {values[1] - values[0]}
    assert (curve.number, curve.last.values["loss"]) == (10_000, 10_000.0)


def test_another_attempt_begins_anew():
    curve = Curve()
    curve.add(reports(5))
    before = curve.copy()
    curve.add(reports(2, attempt=3))
    assert (curve.attempt, curve.values("loss")) == (3, [1.0, 2.0])
    assert (before.attempt, before.values("loss")) == (1, [1.0, 2.0, 3.0, 4.0, 5.0])


def test_the_objective_comes_first():
    curve = Curve()
    curve.add(reports(1, time=3.0, objective=1.0))
    assert curve.names == ["objective", "loss", "time"]
