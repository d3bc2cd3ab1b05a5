"""A driver that waits says why: nobody serves, all are full, workers refuse, it is itself inside a job."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from queue_eval import Evaluator
from queue_eval.driver.service import MOST_WARNINGS
from queue_eval.model.states import State
from tests.support.cli import Filled
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import end, wait_state
from tests.support.marks import long, soak
from tests.support.waiting import wait_until

NAME = "tests.support.functions:run"
LABEL = "of-nobody"
"""Of campaigns that no worker serves whose card an earlier test has left behind."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers in this process lose patience after 0.4 s of waiting."""
    monkeypatch.setattr("queue_eval.driver.chores.UNSERVED_S", 0.4)
    monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.05)


def told_within(driver: Evaluator, seconds: float = 20.0, wanted: int = 1) -> list[str]:
    """What a waiting driver warns of; waits for so many."""
    deadline = time.monotonic() + seconds
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        while len(said) < wanted and time.monotonic() < deadline:
            driver.gather("ALL", timeout=0.3)
    return [str(one.message) for one in said]


# Nobody serves ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_time_in_which_the_driver_computes_is_no_time_of_waiting(fleet, campaign, monkeypatch):
    computed_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + computed_s)
    monkeypatch.setattr("queue_eval.driver.chores.time", clock)
    with fleet.driver(campaign, NAME, queue=LABEL) as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=0.1) == []
        computed_s = 3600.0
        assert driver.gather("ALL", timeout=0.1) == [], "a warning would be an error"
        monkeypatch.setattr("queue_eval.driver.chores.UNSERVED_S", 0.2)
        monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.05)
        (said,) = told_within(driver)
        assert said.startswith(f"1 job of campaign '{campaign}' waits, and nobody serves it")


@pytest.mark.usefixtures("soon")
def test_many_short_waits_are_a_long_one(fleet, campaign):
    with fleet.driver(campaign, NAME, queue=LABEL) as driver:
        driver.submit([{"x": 1}])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(40):
                driver.gather("ALL", timeout=0.03)
        (one,) = said
        assert "waits, and nobody serves it" in str(one.message)


# All are full -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("soon")
def test_a_driver_beside_a_full_worker_is_told_that_it_is_busy(fleet, campaign):
    fleet.worker("--name", f"{campaign}-general", lease="3s", slots=2)
    with fleet.driver(f"{campaign}-first") as first, fleet.driver(campaign) as driver:
        first.submit([fleet.gated(x) for x in range(2)])
        fleet.wait_begun(1, 2)
        driver.submit([fleet.config(5)])
        (said,) = told_within(driver)
        assert said.startswith(f"the only worker that serves campaign '{campaign}' is busy with")
        assert f"queue-eval worker --home {fleet.home} --campaign {campaign}" in said
        fleet.open_gate()
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [5]
        first.gather("ALL", timeout=20)


@pytest.mark.long
@pytest.mark.usefixtures("soon")
def test_a_worker_that_is_full_of_the_drivers_own_jobs_is_no_trouble(fleet, campaign):
    fleet.worker("--campaign", campaign, "--name", f"{campaign}-own", lease="3s")
    wait_until(lambda: fleet.cli("workers", "--json").stdout.count(f"{campaign}-own"))
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(3)])
        fleet.wait_begun(1)
        assert told_within(driver, seconds=2.0) == []
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=20)) == 3


# Workers that refuse ------------------------------------------------------------------------------------


@pytest.fixture
def waiting(server, campaign, soon) -> Iterator[tuple[Evaluator, Filled]]:
    """A driver with one job to wait for, and what plays its workers."""
    filled = Filled(server, campaign)
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "queue": LABEL}
    with Evaluator.create(NAME, "process", keywords | {"on_change": "accept"}) as driver:
        driver.submit([{"x": 1}])
        yield driver, filled
    filled.link.close()


def test_a_worker_that_steps_aside_is_told_of_while_another_serves(waiting, campaign):
    driver, filled = waiting
    (token,) = filled.settle(room=1, worker="healthy")
    filled.register("healthy", slots=1)
    filled.register("sick", refused={campaign: "its interpreter is gone"})
    said = told_within(driver)
    (said_first,) = said
    assert said_first.startswith(
        f"worker sick has stepped aside from campaign {campaign!r}: its interpreter is gone; mend that, or "
    )
    assert told_within(driver, seconds=0.5) == [], "once"
    filled.register("sick", refused={campaign: "no module named numpy"})
    (said_then,) = told_within(driver)
    assert ": no module named numpy; mend that, or start another with: queue-eval worker" in said_then
    assert token.id == 1
    for worker in ("healthy", "sick"):
        filled.deregister(worker)


def test_a_sick_worker_that_tries_a_job_serves_nobody(waiting, campaign):
    driver, filled = waiting
    filled.settle(room=1, worker="sick")
    filled.register("sick", refused={campaign: "its interpreter is gone"})
    (said,) = told_within(driver)
    assert said.startswith(f"worker sick does not serve campaign {campaign!r}: its interpreter is gone; ")
    filled.deregister("sick")


def test_a_fleet_of_sick_workers_is_told_of_in_a_handful_of_warnings(waiting, campaign):
    driver, filled = waiting
    names = [f"{campaign}-sick-{i}" for i in range(12)]
    for i, name in enumerate(names):
        # Three of them for the same reason.
        filled.register(name, refused={campaign: f"reason {max(i, 2)}"})
    said = told_within(driver, wanted=MOST_WARNINGS + 1)
    assert len(said) == MOST_WARNINGS + 1
    assert " (and 2 others) does not serve campaign" in said[0]
    assert said[-1].startswith("5 more workers do not serve campaign")
    filled.register(names[0], refused={campaign: "yet another"})
    assert told_within(driver, seconds=0.5) == []
    for name in names:
        filled.deregister(name)


# Inside a job -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["thread", *long("process"), *soak("subprocess")])
def test_a_driver_inside_a_job_of_a_general_worker_hires_its_own(own_fleet, campaign, method):
    """Two levels deep: the general worker's one slot is taken by the outermost."""
    fleet = own_fleet
    assert fleet.cli("server", "start").returncode == 0
    fleet.worker("--name", "general")
    function = "tests.support.nested_functions:sum_of_squares"
    with fleet.driver(campaign, function, method) as driver:
        driver.submit([{"x": 3, "depth": 2, "method": method, "home": str(fleet.home)}])
        (job,) = driver.gather("ALL", timeout=90)
        assert job.error is None
        assert job.result == 0 + 0 + 1  # x = 0: no terms; 1: 0; 2: 0 + 1
        assert job.worker == "general"


@pytest.mark.long
@pytest.mark.parametrize("inner", ["own", *soak("other")])
def test_a_driver_that_waits_for_its_own_slot_is_told(own_fleet, campaign, inner):
    """It starts no workers, as with a remote server."""
    fleet = own_fleet
    assert fleet.cli("server", "start").returncode == 0
    fleet.worker(lease="2s")
    name = campaign if inner == "own" else f"{campaign}-other"
    with fleet.driver(campaign, "tests.support.nested_functions:without_own_workers") as driver:
        (job,) = driver.submit([{"home": str(fleet.home), "campaign": name}])
        driver.gather("BATCH", 1, timeout=90)
        assert job.error is None
        assert f"the only worker that serves campaign {name!r} is busy with" in job.result
        own, other = "jobs that may wait as this one does", "the very job that this driver runs in"
        assert (own if inner == "own" else other) in job.result


def test_user_code_is_told_that_it_is_inside_a_job(fleet, campaign):
    with fleet.driver(campaign, "tests.support.nested_functions:inside") as driver:
        worker = fleet.worker("--campaign", campaign)
        driver.submit([{"x": 1}])
        (job,) = driver.gather("ALL", timeout=30)
        assert job.result == campaign
        assert end(worker) == 0
        wait_until(lambda: not is_running(worker.pid))
        wait_state(fleet.queue(campaign), State.SUCCEEDED, 1)
