"""When a drain must be over, and what the signals of a worker count for."""

from __future__ import annotations

import signal
import time

import pytest

from workers import signals as module
from workers.drain import drain_deadline, end_margin_s, notice_s
from workers.signals import DOUBT_S, ONE_S, STOPPED_S, Signals

TERM, USR1, USR2, INT, HUP = (
    signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP,
)  # fmt: skip


@pytest.mark.parametrize(
    ("received", "ends_at", "is_batch", "timeout_s", "deadline"),
    [
        ({}, None, False, None, None),  # `workers stop`
        ({INT: 100.0}, None, True, None, None),
        ({HUP: 100.0}, None, False, None, None),
        ({TERM: 100.0}, None, False, None, None),
        ({TERM: 100.0}, None, True, None, 120.0),
        ({TERM: 100.0}, 5000.0, True, None, 120.0),
        ({TERM: 100.0}, 110.0, True, None, 110.0),
        ({USR1: 100.0}, None, True, None, 150.0),
        ({USR2: 100.0}, None, False, None, 150.0),
        ({USR2: 100.0}, 160.0, True, None, 160.0),
        ({USR1: 100.0, TERM: 101.0}, None, True, None, 121.0),
        ({TERM: 100.0}, None, True, 5.0, 105.0),
        ({TERM: 100.0}, None, True, 300.0, 400.0),
        ({}, 110.0, False, 300.0, 110.0),
        ({}, None, False, 3.0, 103.0),
    ],
)
def test_deadline(received, ends_at, is_batch, timeout_s, deadline):
    found = drain_deadline(
        received, drained_at=100.0, ends_at=ends_at, is_batch=is_batch, timeout_s=timeout_s
    )
    assert found == deadline


@pytest.fixture
def told(monkeypatch):
    """Signals that are received at moments of the test's choice."""
    signals = Signals()

    def tell(number: int, at: float) -> Signals:
        with monkeypatch.context() as patch:
            patch.setattr(module.time, "monotonic", lambda: at)
            signals._on_signal(number, None)
        return signals

    return tell


def test_signals_within_two_seconds_are_one(told):
    assert told(TERM, 10.0).wants_drain
    assert not told(TERM, 10.07).wants_stop
    assert not told(INT, 10.0 + ONE_S - 0.01).wants_stop
    assert told(TERM, 10.0 + ONE_S).wants_stop
    assert told(TERM, 20.0).reason == "SIGTERM, SIGINT"


def test_what_a_signal_explains(told):
    assert not Signals().explain(time.monotonic())
    signals = told(TERM, 100.0)
    assert [
        signals.explain(at)
        for at in (100 - DOUBT_S - 0.01, 100 - DOUBT_S, 100.0, 100 + STOPPED_S, 100 + STOPPED_S + 0.01)
    ] == [False, True, True, True, False]
    signals.drain("idle")
    assert not signals.explain(100 + STOPPED_S + 0.01), "a request is no signal"


@pytest.mark.parametrize(
    ("limit_s", "drains_before_s"), [(1, 0.5), (12, 6), (30, 10), (200, 20), (600, 60), (86_400, 60)]
)
def test_by_default_a_worker_drains_a_tenth_of_its_time_before_its_end(limit_s, drains_before_s):
    assert notice_s(limit_s, None) + end_margin_s(limit_s) == drains_before_s


def test_a_notice_that_was_asked_for_reaches_jobs_that_long_before_they_are_given_back():
    assert notice_s(12, 2.5) == 2.5
