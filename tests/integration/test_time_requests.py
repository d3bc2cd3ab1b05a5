"""Jobs that ask for time: which worker runs them, who is told that none does, and which ask by themselves."""

from __future__ import annotations

import json
import re

import pytest

from queue_eval import Evaluator
from queue_eval.driver import chores
from queue_eval.model.shape import Shape
from queue_eval.model.states import State
from tests.support.fault_fleet import check_all_recorded, wait_registered
from tests.support.told import gather_until_told
from tests.support.waiting import wait_until


def test_a_worker_without_the_time_takes_what_is_behind(fleet, campaign):
    short, long = f"{campaign}-short", f"{campaign}-long"
    with fleet.driver(campaign) as driver:
        fleet.worker("--campaign", campaign, "--name", short, "--time-limit", "10m")
        (first,) = driver.submit([fleet.config("first")], time_request=3600)
        fitting = driver.submit([fleet.config("fitting")], time_request=60)
        others = driver.submit([fleet.config(i) for i in range(9)])
        found = driver.gather("BATCH", size=10, timeout=60)
        assert sorted(job.id for job in found) == [job.id for job in fitting + others]
        assert {job.worker for job in found} == {short}
        assert fleet.queue(campaign).snapshot().counts[State.PENDING] == 1
        fleet.worker("--campaign", campaign, "--name", long)
        assert driver.gather("ALL", timeout=60) == [first]
        assert (first.result, first.worker) == ("first", long)
        check_all_recorded(fleet.queue(campaign), 11)


def test_an_idle_worker_of_one_slot_is_told_of_them(fleet, campaign):
    with fleet.driver(campaign, time_request=60) as driver:
        fleet.worker("--campaign", campaign, "--time-limit", "10m")
        for number in range(5):
            driver.submit([fleet.config(number)])
            assert driver.gather("ALL", timeout=30)[0].result == number
        queue = fleet.queue(campaign)
        assert queue.shapes_of(range(1, 6)) == [Shape(1, 60)] * 5


@pytest.mark.filterwarnings("ignore:.* nobody serves it")  # which is so while it starts
def test_a_job_that_no_worker_ever_has_the_time_for_is_told(fleet, campaign, monkeypatch):
    monkeypatch.setattr(chores, "UNSERVED_S", 0.2)
    monkeypatch.setattr(chores, "LOOK_EVERY_S", 0.1)
    name = f"{campaign}-short"
    why = "asks for 3600 s (time_request), and no worker that serves it has more than 5"
    with fleet.driver(campaign) as driver:
        fleet.worker("--campaign", campaign, "--name", name, "--time-limit", "10m")
        wait_registered(fleet, name)
        driver.submit([fleet.config("long")], time_request=3599.5)
        driver.submit([fleet.config("other")])
        jobs, _ = gather_until_told(driver, re.escape(why))
        assert [job.id for job in jobs or driver.gather("BATCH", 1, timeout=20)] == [2]
    status = fleet.cli("status", campaign)
    assert f"a job {why}" in status.stdout
    (unfit,) = json.loads(fleet.cli("status", campaign, "--json").stdout)["unfit"]
    assert (unfit["slots"], unfit["time_request"]) == (1, 3600)
    shown = fleet.cli("job", campaign, "1").stdout
    assert f"\nwhy        job 1 {why}" in shown
    assert "3600 s of its worker's time" in shown
    told = json.loads(fleet.cli("job", campaign, "1", "--json").stdout)
    assert (told["time_request"], told["time_lacked_in_a_row"]) == (3600, 0)
    assert told["unfit"].startswith(why)
    other = json.loads(fleet.cli("job", campaign, "2", "--json").stdout)
    assert (other["time_request"], other["unfit"]) == (None, None)


@pytest.mark.long
def test_a_job_whose_workers_never_have_the_time_asks_for_it(fleet, campaign):
    with fleet.driver(campaign) as driver:
        (job,) = driver.submit([fleet.gated("done")])
        queue = fleet.queue(campaign)
        started = 0
        while queue.time_lacks_of([1]) != [3]:
            started += 1
            assert started < 10, "a worker that starts slowly may lease nothing"
            assert fleet.worker("--campaign", campaign, "--time-limit", "6s").wait(60) == 0
        (shape,) = queue.shapes_of([1])
        assert 1 < shape.time_s < 30
        logs = "".join(path.read_text() for path in fleet.folder.glob("worker-*.log"))
        assert f"from now on only workers with {shape.time_s} s left run it" in logs
        shown = fleet.cli("job", campaign, "1").stdout
        assert f"asks for   {shape.time_s} s of its worker's time, since 3 attempts lacked it" in shown
        reason = queue.failures(1)[-1]["body"]
        assert reason.startswith("drain: the time limit of 6 s is near; given back 3 times for lack of time")
        assert reason.endswith(f"asks for {shape.time_s} s from now on (time_request)")
        fleet.worker("--campaign", campaign)
        wait_until(lambda: queue.snapshot().counts[State.RUNNING] == 1)
        fleet.open_gate()
        assert driver.gather("ALL", timeout=60) == [job]
        assert (job.result, job.attempts, job.releases) == ("done", 1, 3)


# What a user gives


def test_a_submission_goes_before_the_campaign(fleet, campaign):
    with fleet.driver(campaign, time_request=100) as driver:
        driver.submit([fleet.config(1)])
        driver.submit([fleet.config(2)], time_request=20.5, slots=2)
        driver.submit([fleet.config(3)], time_request=1234)
    with Evaluator.attach(campaign, home=fleet.home) as attached:
        attached.submit([fleet.config(4)])
        attached.cancel()
    shapes = fleet.queue(campaign).shapes_of(range(1, 5))
    assert shapes == [Shape(1, 100), Shape(2, 21), Shape(1, 1240), Shape(1, 100)]


@pytest.mark.parametrize("request_s", [0, -1, float("nan"), float("inf"), "60", True, [1], 1e10])
def test_requests_that_cannot_be(fleet, campaign, request_s):
    with fleet.driver(campaign) as driver, pytest.raises(ValueError, match="time_request is"):
        driver.submit([{"x": 1}], time_request=request_s)
    with pytest.raises(ValueError, match="time_request is"):
        fleet.driver(f"{campaign}-2", time_request=request_s)
