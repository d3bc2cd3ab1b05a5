"""Reports of running jobs where the server goes back in time or is away, as a driver hears them."""

from __future__ import annotations

import threading

import pytest

from queue_eval.server.lifecycle import start_server
from tests.faults.test_back_in_time import cut_power, size_of
from tests.support.fault_fleet import kill_server
from tests.support.hand_worker import HandWorker
from tests.support.waiting import wait_until

BEGIN_MS = 1_800_000_000_000


class Hears:
    """Notes the reports of jobs, by the x of their configs."""

    def __init__(self):
        self.heard = []

    def on_report(self, job, report):
        self.heard.append((job.config["x"], report.attempt, report.step))


@pytest.fixture
def open_worker(fleet, campaign):
    opened = []

    def start():
        opened.append(HandWorker(fleet.home, campaign))
        return opened[-1]

    yield start
    for worker in opened:
        worker.close()


def hear(driver, hears, count):
    wait_until(lambda: driver.gather("ALL", timeout=0.05) or len(hears.heard) >= count)


def test_the_same_token_again_after_a_power_cut(fleet, campaign, open_worker):
    """The attempt that the server has forgotten was heard. Another one has its number, and is heard too."""
    hears = Hears()
    with fleet.driver(campaign, callbacks=[hears]) as driver:
        (job,) = driver.submit([{"x": 7}])
        size = size_of(fleet.home)
        worker = open_worker()
        (lease,) = worker.lease()
        worker.report(lease, (1, {"loss": 1}), (2, {"loss": 1}))
        hear(driver, hears, 2)
        cut_power(fleet, size)
        worker = open_worker()
        (again,) = worker.lease()
        assert (again.id, again.attempt) == (lease.id, lease.attempt)
        worker.report(again, (11, {"loss": 1}), base_ms=BEGIN_MS + 60_000)
        hear(driver, hears, 3)
        worker.report(again, (12, {"loss": 1}), base_ms=BEGIN_MS + 60_000)
        worker.finish(again)
        assert driver.gather("ALL", timeout=60) == [job]
    assert hears.heard == [(7, 1, 1), (7, 1, 2), (7, 1, 11), (7, 1, 12)]


def test_reports_that_the_server_has_forgotten_are_not_heard_again(fleet, campaign, open_worker):
    hears = Hears()
    with fleet.driver(campaign, callbacks=[hears]) as driver:
        (job,) = driver.submit([{"x": 7}])
        worker = open_worker()
        (lease,) = worker.lease()
        worker.report(lease, (1, {"loss": 1}))
        size = size_of(fleet.home)
        worker.report(lease, (2, {"loss": 1}))
        hear(driver, hears, 2)
        cut_power(fleet, size)
        worker.report(lease, (3, {"loss": 1}))
        worker.finish(lease)
        assert driver.gather("ALL", timeout=60) == [job]
    assert hears.heard == [(7, 1, 1), (7, 1, 2), (7, 1, 3)]


def test_nobody_hears_the_reports_of_anothers_job(fleet, campaign, open_worker):
    """A job was undone, and its id was given to a job of another driver, which reports."""
    one, two = Hears(), Hears()
    with (
        fleet.driver(campaign, callbacks=[one]) as first,
        fleet.driver(campaign, callbacks=[two], reuse=False) as second,
    ):
        size = size_of(fleet.home)
        (undone,) = first.submit([{"x": 1}])
        worker = open_worker()
        (lease,) = worker.lease()
        worker.report(lease, (1, {"loss": 1}))
        hear(first, one, 1)
        cut_power(fleet, size)
        (other,) = second.submit([{"x": 2}])
        assert other.id == undone.id
        worker = open_worker()
        (lease,) = worker.lease()
        worker.report(lease, (21, {"loss": 1}), base_ms=BEGIN_MS + 60_000)
        hear(second, two, 1)
        first.gather("ALL", timeout=0.2)  # its job is submitted again
        assert undone.id != other.id
        (again,) = wait_until(worker.lease)
        worker.report(again, (31, {"loss": 1}), base_ms=BEGIN_MS + 90_000)
        worker.finish(again)
        worker.finish(lease)
        assert first.gather("ALL", timeout=60) == [undone]
        assert second.gather("ALL", timeout=60) == [other]
    assert one.heard == [(1, 1, 1), (1, 1, 31)]
    assert two.heard == [(2, 1, 21)]


def test_a_server_that_is_away_for_a_while(fleet, campaign, open_worker):
    hears = Hears()
    with fleet.driver(campaign, callbacks=[hears]) as driver:
        (job,) = driver.submit([{"x": 7}])
        worker = open_worker()
        (lease,) = worker.lease()
        gathered = []
        waiting = threading.Thread(target=lambda: gathered.extend(driver.gather("ALL", timeout=60)))
        waiting.start()
        for step in range(4):
            worker.report(lease, (step, {"loss": 1}))
            kill_server(fleet)
            start_server(fleet.home, keep=True)
        worker.finish(lease)
        waiting.join(60)
        assert gathered == [job]
    assert hears.heard == [(7, 1, step) for step in range(4)]
    assert [one.step for one in job.reports] == list(range(4))


def test_a_stop_outlives_driver_worker_and_server(fleet, campaign, open_worker):
    with fleet.driver(campaign) as driver:
        (job,) = driver.submit([{"x": 7}])
        worker = open_worker()
        (lease,) = worker.lease()
        assert driver.stop([job]) == 1
    kill_server(fleet)
    start_server(fleet.home, keep=True)
    worker.give_back(lease)
    (again,) = wait_until(worker.lease)
    assert again.stop
    assert worker.is_stopped(again)
    with fleet.driver(campaign) as driver:
        assert driver.num_outstanding == 1
        worker.finish(again, 3)
        (job,) = driver.gather("ALL", timeout=60)
        assert (job.state, job.stopped_early) == ("succeeded", False)  # it did not look
