"""Who watches an attack: a server that stands still is no such machine, and nobody goes blind unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from queue_eval.chaos import observer as watching
from queue_eval.chaos.observer import Observer, StallDetector
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import server_state, start_server
from queue_eval.transport.access import find_access
from tests.support.cli import ROOT, Filled
from tests.support.processes import Started
from tests.support.waiting import wait_until

CAMPAIGN = "watched"
RESULT = '{"token": "t", "value": "v"}'
STILL_S = 1.3

WATCH = """
import sys, time
from queue_eval.chaos.observer import StallDetector
watch = StallDetector()
watch.start()
print("watching", flush=True)
sys.stdin.readline()
while not watch.stalls:
    time.sleep(0.01)
watch.stop()
print(len(watch.stalls))
"""


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "CAMPAIGN", CAMPAIGN)


def hold(pid: int) -> None:
    """A process that stands still for longer than what counts as a stall."""
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(STILL_S)
    os.kill(pid, signal.SIGCONT)


def fill(filled: Filled, *bodies: str) -> None:
    filled.submit(*({"x": x} for x in range(len(bodies))))
    for body in bodies:
        filled.run(1, Outcome.OK, body)


def test_a_server_that_stands_still_is_no_machine_that_does(own_home: Path) -> None:
    start_server(own_home, keep=True)
    filled = Filled(own_home, CAMPAIGN)
    fill(filled, RESULT)
    observer, watch = Observer(find_access(None, own_home)), StallDetector()
    observer.start()
    watch.start()
    wait_until(lambda: observer.samples)
    pid = server_state(own_home).pid
    assert pid is not None
    hold(pid)
    count = len(observer.samples)
    wait_until(lambda: len(observer.samples) > count + 2)
    watch.stop()
    observer.finish()
    filled.link.close()
    assert max(b.at - a.at for a, b in zip(observer.samples, observer.samples[1:], strict=False)) > 1.0
    assert watch.stalls == []
    assert observer.errors == []


def test_a_machine_that_stands_still_is_noticed() -> None:
    with Started(
        [sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        hold(process.pid)
        assert process.communicate("\n", timeout=20)[0] == "1\n"


def test_the_last_look_sees_all_there_is(own_home: Path) -> None:
    start_server(own_home, keep=True)
    filled = Filled(own_home, CAMPAIGN)
    observer = Observer(find_access(None, own_home))
    observer.start()
    wait_until(lambda: observer.samples)
    fill(filled, RESULT, RESULT)
    ended_at = time.time()
    observer.finish()
    filled.link.close()
    assert len(observer.seen) == 2
    assert observer.samples[-1].at >= ended_at


def test_when_a_failure_was_recorded_is_known_without_the_servers_clock(own_home: Path) -> None:
    start_server(own_home, keep=True)
    filled = Filled(own_home, CAMPAIGN)
    observer = Observer(find_access(None, own_home))
    observer.start()
    wait_until(lambda: observer.samples)
    recorded = []
    filled.submit(*({"x": x} for x in range(3)))
    for count in range(1, 4):
        before = time.time()
        filled.run(1, Outcome.ERROR, "boom")
        recorded.append((before, time.time()))
        wait_until(lambda count=count: len(observer.failed_at) == count)
    observer.finish()
    filled.link.close()
    for (after, at), (earliest, latest) in zip(observer.failed_at.values(), recorded, strict=True):
        assert after <= latest
        assert at >= earliest
        assert after < at
    looks = [after for after, _ in observer.failed_at.values()]
    assert looks == sorted(looks)


def test_who_goes_blind_says_so(own_home: Path) -> None:
    """A result such as no evaluation of an attack returns."""
    start_server(own_home, keep=True)
    filled = Filled(own_home, CAMPAIGN)
    fill(filled, RESULT, "10.5")
    observer = Observer(find_access(None, own_home))
    observer.start()
    (error,) = wait_until(lambda: observer.errors)
    observer.finish()
    filled.link.close()
    assert "the observer failed at" in error
    assert "TypeError" in error
