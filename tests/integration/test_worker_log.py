"""What a worker logs of its jobs and of its end: lines for people, and JSON for log collectors."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.fault_fleet import Fleet
from tests.support.waiting import wait_until
from workers.signals import ONE_S

KEYS = {
    "time", "level", "event", "worker", "campaign", "job", "attempt", "seconds", "error", "counts", "message",
    "logger",
}  # fmt: skip


def wait_for(fleet: Fleet, worker: subprocess.Popen[str], text: str) -> None:
    wait_until(lambda: text in fleet.output_of(worker), 30)


def end(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def events(fleet: Fleet, worker: subprocess.Popen[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fleet.output_of(worker).splitlines()]


def test_each_job_has_a_line_when_it_begins_and_when_it_ends(fleet, campaign):
    with fleet.driver(campaign, fail_text) as driver:
        jobs = driver.submit([fleet.gated(1), fleet.gated(2) | {"x": "fail"}])
        worker = fleet.worker("--campaign", campaign, slots=2)
        wait_for(fleet, worker, f"INFO begins job 1 of {campaign} (attempt 1)\n")
        wait_for(fleet, worker, f"INFO begins job 2 of {campaign} (attempt 1)\n")
        fleet.open_gate()
        wait_for(fleet, worker, f"INFO job {jobs[0].id} of {campaign} succeeded in ")
        wait_for(fleet, worker, "s: ValueError: bad lr\n")
    end(worker)


def fail_text(config: dict[str, Any]) -> int:
    from pathlib import Path

    while not Path(config["gate"]).exists():
        time.sleep(0.01)
    if config["x"] == "fail":
        raise ValueError("bad lr")
    return 1


def test_a_cancelled_job_is_told_of(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign)
        wait_for(fleet, worker, "begins job 1")
        driver.cancel()
        wait_for(fleet, worker, f"job 1 of {campaign} is stopped: it was cancelled, or has finished else")
    end(worker)


@pytest.mark.parametrize("option", [("--quiet",), ("--launch", "digest")])
def test_who_is_to_be_quiet_says_nothing_of_jobs(fleet, campaign, option):
    """Workers that drivers start are told a digest of what they are started with."""
    worker = fleet.worker("--campaign", campaign, *option)
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1)])
        assert len(driver.gather("ALL", timeout=30)) == 1
    end(worker)
    told = fleet.output_of(worker)
    assert "job 1" not in told
    assert (told == "") == (option == ("--quiet",))


def test_json_has_the_same_keys_in_every_line(fleet, campaign):
    worker = fleet.worker("--campaign", campaign, "--name", f"w-{campaign}", "--log-json")
    began_at = datetime.now(UTC)
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1)])
        assert len(driver.gather("ALL", timeout=30)) == 1
        driver.submit([fleet.gated(2)])
        wait_until(lambda: any((e["event"], e["job"]) == ("begun", 2) for e in events(fleet, worker)), 30)
        worker.send_signal(signal.SIGTERM)
        time.sleep(ONE_S + 0.1)  # signals that come sooner count as one
        end(worker)
    found = events(fleet, worker)
    assert all(entry.keys() == KEYS and entry["worker"] == f"w-{campaign}" for entry in found)
    assert datetime.fromisoformat(found[0]["time"]).replace(tzinfo=UTC) >= began_at
    by_event = {entry["event"]: entry for entry in found}
    assert {"started", "begun", "succeeded", "draining", "stopping", "given back", "ended"} == by_event.keys()
    ended = by_event["succeeded"]
    assert (ended["campaign"], ended["job"], ended["attempt"]) == (campaign, 1, 1)
    assert 0 <= ended["seconds"] < 10
    assert by_event["given back"]["error"] == "drain: SIGTERM"


def test_an_error_that_ends_a_worker_is_json_too(fleet):
    done = fleet.cli("worker", "--gpus", "all,0", "--log-json", "--name", "w")
    (entry,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, entry["event"], entry["level"]) == (2, "error", "error")
    assert "--gpus" in entry["message"]


def test_ctrl_c_tells_what_another_one_does(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1, "first"), fleet.gated(2, "second")])
        worker = fleet.worker("--campaign", campaign, slots=2)
        fleet.wait_begun(1, 2)
        worker.send_signal(signal.SIGINT)
        again = "press Ctrl-C again after 2 s to give them back and stop now\n"
        wait_for(fleet, worker, f"draining (SIGINT): 2 running; {again}")
        fleet.open_gate("first")
        wait_for(fleet, worker, "still draining: 1 running\n")
        time.sleep(ONE_S)
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
    told = fleet.output_of(worker)
    assert "stopping now (SIGINT): 1 running, given back\n" in told
    assert f"job 2 of {campaign} (attempt 1) is given back: drain: SIGINT\n" in told


def test_ctrl_c_during_a_drain_that_was_asked_for(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign, "--name", f"w-{campaign}")
        fleet.wait_begun(1)
        assert fleet.cli("workers", "stop", f"w-{campaign}").returncode == 0
        wait_for(fleet, worker, "draining (asked to): 1 running\n")
        worker.send_signal(signal.SIGINT)
        wait_for(fleet, worker, "still draining: 1 running; press Ctrl-C again after 2 s to give it back")
        fleet.open_gate()
        assert worker.wait(30) == 0
