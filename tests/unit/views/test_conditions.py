"""Conditions on jobs, and the names of their values."""

from __future__ import annotations

import pytest

from queue_eval.errors import UsageError
from queue_eval.model.table_cells import NOTHING
from queue_eval.views.conditions import parse_condition
from queue_eval.views.job_values import OWN_COLUMNS, value_of
from queue_eval.views.ranking import best_ranked

CONFIG = {
    "lr": 0.01, "units": 64, "name": "Adam W", "on": True, "none": None, "list": [1, 2], "text5": "5",
    "state": "mine", "model": {"depth": 3, "head.x": {"y": 1}}, "a.b": 1, "a": {"b": 2}, "p:odd": 7,
}  # fmt: skip
RESULT = {"loss": 0.5, "lr": 9, "bad": float("nan")}
OWN = dict.fromkeys(OWN_COLUMNS)
JOB = OWN | {
    "id": 7, "state": "succeeded", "config": CONFIG, "result": RESULT, "attempts": 1, "worker": "box-1",
    "duration": 5400.0, "run_s": 0.25, "tag": {"trial": 3}, "finished_at": "2026-11-28T21:35:15.521+00:00",
}  # fmt: skip
FAILED = JOB | {"state": "failed", "result": -3.4e38, "error": "Traceback\nValueError: no", "cause": "error"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 7), ("state", "succeeded"), ("objective", RESULT), ("result", RESULT), ("lr", 0.01),
        ("p:lr", 0.01), ("r:lr", 9), ("loss", 0.5), ("r:loss", 0.5), ("p:loss", NOTHING),
        ("r:units", NOTHING), ("config.state", "mine"), ("p:state", "mine"), ("model.depth", 3),
        ("p:model.depth", 3),
        ("model.head.x.y", 1), ("model.head", NOTHING), ("a.b", 1), ("p:odd", 7), ("none", None),
        ("tag.trial", 3), ("tag", {"trial": 3}), ("error", NOTHING), ("nope", NOTHING), ("lr.x", NOTHING),
    ],
)  # fmt: skip
def test_names(name, value):
    assert value_of(JOB, name) == value


@pytest.mark.parametrize("name", ["objective", "result", "loss", "r:loss"])
def test_a_failure_has_no_objective(name):
    assert value_of(FAILED, name) is NOTHING
    assert not parse_condition(f"{name}<1").holds(FAILED)


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ("lr<0.02", True), ("lr<1e-2", False), ("lr <= 1e-2", True), (" lr>=0.01 ", True), ("lr>.001", True),
        ("lr=0.010", True), ("lr==0.01", True), ("lr!=0.01", False), ("lr!=1", True), ("lr<inf", True),
        ("lr>-inf", True), ("r:lr=9", True), ("loss<1", True), ("r:bad<1", False), ("r:bad=nan", True),
        ("r:bad!=0", True), ("nope=1", False), ("nope!=1", False), ("nope~", False),
        ("name=Adam W", True), ('name="Adam W"', True), ("name~adam", True), ("name~x", False),
        ("name<B", True), ("text5=5", True), ("text5=5.0", False), ("units~6", True), ("units=64.0", True),
        ('units="64"', True), ("on=true", True), ("on=True", True), ("on!=false", True), ("on=1", False),
        ("on>0", False), ("none=null", True), ("none=None", True), ("none!=5", True), ("none>5", False),
        ("none<5", False), ("list=[1,2]", True), ("list~2", True), ("list>0", False), ("model.depth>2", True),
        ("state=succeeded", True), ("state!=failed", True), ("state~fail", False), ("worker~box", True),
        ("duration>1h", True), ("duration>1h30m", False), ("duration=5400", True), ("run_s<1", True),
        ("attempts>1", False), ("finished_at>2026-11-28", True), ("finished_at<2026-11-28", False),
        ("config.state=mine", True), ("tag.trial=3", True), ("error~ValueError", False), ("lr<x", True),
    ],
)  # fmt: skip
def test_conditions(given, holds):
    assert parse_condition(given).holds(JOB) is holds


def test_errors_can_be_searched():
    assert parse_condition("error~valueerror: NO").holds(FAILED)
    assert parse_condition("cause=error").holds(FAILED)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("lr", "is no condition; write NAME OP VALUE"), ("", "is no condition"), ("<5", "is no condition"),
        ("lr 5", "is no condition"), ("!x=5", "is no condition"), ("__import__('os')", "is no condition"),
        ("id=x", "id is a number, and 'x' is none"), ("attempts>", "attempts is a number"),
        ("duration>long", "duration is a time; give seconds, or a duration"),
        ("state=done", "there is no state 'done'; give one of scheduled, pending"),
    ],
)  # fmt: skip
def test_bad_conditions(given, told):
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        parse_condition(given)


def test_ranking_holds_no_more_than_are_wanted():
    numbers = ((float(i % 7), i, i) for i in range(1000))
    assert list(best_ranked(numbers, 3, minimize=False)) == [6, 13, 20]
    assert list(best_ranked([(float("nan"), 1, 1), (1, 2, 2)], 3, minimize=True)) == [2]
