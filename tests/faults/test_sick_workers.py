"""Workers that cannot run anything beside workers that can: no job pays for it, and all are told why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queue_eval.campaign.registry import live_workers
from queue_eval.model.states import State
from tests.support.fault_fleet import Fleet, check_all_recorded, end, wait_registered
from tests.support.marks import long, soak
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:worker .* campaign:UserWarning")
"""Drivers warn of a worker that steps aside, which is another matter than what becomes of their jobs."""

METHODS = ["process", *soak("thread", "subprocess")]
JOBS = 100

MISSING = "a module that is on one worker's path only"
KINDS = {
    "no interpreter": "cannot start /no/such/python",
    "no program": "cannot start",
    "exit 127": "exit status 127",
    "a signal": "killed by SIGSEGV",
    MISSING: "No module named 'only_here'",
}

FUNCTION = "only_here:work"
MODULE = """
import pathlib, time

def work(config):
    while "gate" in config and not pathlib.Path(config["gate"]).exists():
        time.sleep(0.005)
    return config["x"]
"""


def script(folder: Path, text: str) -> str:
    """A program that stands where the interpreter should."""
    program = folder / "python"
    program.write_text(text)
    program.chmod(0o755)
    return str(program)


def sickness(kind: str, folder: Path) -> dict[str, str]:
    """The environment of a worker that cannot load any run function."""
    if kind == "no interpreter":
        return {"QUEUE_EVAL_PYTHON": "/no/such/python"}
    if kind == "no program":
        return {"QUEUE_EVAL_PYTHON": script(folder, "\0")}
    if kind == "exit 127":
        return {"QUEUE_EVAL_PYTHON": script(folder, "#!/bin/sh\necho 'python: not found' >&2\nexit 127\n")}
    if kind == "a signal":
        return {"QUEUE_EVAL_PYTHON": script(folder, "#!/bin/sh\nkill -SEGV $$\n")}
    return {}


def library(folder: Path) -> dict[str, str]:
    """The environment of a worker that has the module `only_here`."""
    modules = folder / "modules"
    modules.mkdir(exist_ok=True)
    (modules / "only_here.py").write_text(MODULE)
    return {"PYTHONPATH": f"{Path(__file__).resolve().parents[2]}:{modules}"}


def reasons(fleet: Fleet, campaign: str) -> dict[str, str]:
    """What the cards of workers say about this campaign."""
    cards = [worker.card for worker in live_workers(fleet.queue(campaign).link)]
    return {card.name: card.refused[campaign] for card in cards if campaign in card.refused}


def said(fleet: Fleet, worker: subprocess.Popen[str], what: str) -> list[str]:
    return [line for line in fleet.output_of(worker).splitlines() if what in line]


def configs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"x": x, **more} for x in range(count)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [MISSING, *long(*(kind for kind in KINDS if kind != MISSING))])
def test_a_sick_worker_costs_no_job_anything(fleet, campaign, method, kind, tmp_path):
    with fleet.driver(campaign, FUNCTION, method=method) as driver:
        healthy = fleet.worker("--name", "healthy", "--campaign", campaign, **library(tmp_path))
        sick = fleet.worker("--name", "sick", "--campaign", campaign, slots=4, **sickness(kind, tmp_path))
        wait_registered(fleet, "healthy", "sick")
        # Or the healthy one might have run all before the other one tries.
        driver.submit(configs(JOBS, gate=str(tmp_path / "gate")))
        wait_until(lambda: said(fleet, sick, "steps aside") and reasons(fleet, campaign))
        with pytest.warns(UserWarning, match=f"worker sick .*{KINDS[kind]}"):
            driver.gather("BATCH", 1, timeout=0.5)
        (tmp_path / "gate").touch()
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts, job.worker) for job in jobs} == {("succeeded", 1, "healthy")}
        assert sum(job.releases for job in jobs) >= 1
        assert KINDS[kind] in reasons(fleet, campaign)["sick"]
        assert list(reasons(fleet, campaign)) == ["sick"]
    check_all_recorded(fleet.queue(campaign), JOBS)
    (line, *_) = said(fleet, sick, "steps aside")
    assert KINDS[kind] in line
    assert "for 1 s" in line
    assert said(fleet, healthy, "steps aside") == []
    assert end(sick) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, *long(2)])
def test_a_function_that_nobody_can_load_fails_at_once(fleet, campaign, method, count):
    """Also with two workers, of which the first to try cannot know yet that the other does no better."""
    with fleet.driver(campaign, "nowhere_at_all:work", method=method) as driver:
        names = [f"w{i}" for i in range(count)]
        workers = [fleet.worker("--name", name, "--campaign", campaign, slots=2) for name in names]
        wait_registered(fleet, *names)
        driver.submit(configs(JOBS))
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.cause, job.attempts) for job in jobs} == {("failed", "error", 1)}
        assert all("No module named 'nowhere_at_all'" in job.error for job in jobs)
    blamed = [line for worker in workers for line in said(fleet, worker, "no worker can load")]
    assert 1 <= len(blamed) <= count
    assert "No module named 'nowhere_at_all'" in blamed[0]
    assert count > 1 or said(fleet, workers[0], "steps aside") == []


@pytest.mark.parametrize("kinds", [["no interpreter"], *long(["exit 127"], ["no interpreter", "exit 127"])])
def test_workers_without_an_interpreter_fail_no_job(fleet, campaign, tmp_path, kinds):
    """It cannot be the function's fault, whoever else there is: the jobs wait, and the driver is told why."""
    with fleet.driver(campaign, FUNCTION, max_losses=1) as driver:
        driver.submit(configs(20))
        for kind in kinds:
            fleet.worker("--name", kind.replace(" ", "-"), slots=2, **sickness(kind, tmp_path))
        wait_until(lambda: len(reasons(fleet, campaign)) == len(kinds))
        with pytest.warns(UserWarning, match="does not serve campaign .*: no working interpreter here"):
            assert driver.gather("BATCH", 1, timeout=1) == []
        queue = fleet.queue(campaign)
        assert queue.snapshot().counts[State.PENDING] + queue.snapshot().counts[State.RUNNING] == 20
        fleet.worker("--name", "healthy", **library(tmp_path))
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts, job.worker) for job in jobs} == {("succeeded", 1, "healthy")}


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_was_repaired_comes_back(fleet, campaign, method, tmp_path):
    """Another worker, which is busy, has not said that it cannot: so the jobs wait."""
    with (
        fleet.driver(f"{campaign}-other") as other,
        fleet.driver(campaign, FUNCTION, method=method) as driver,
    ):
        both = ("--campaign", campaign, "--campaign", f"{campaign}-other")
        fleet.worker("--name", "busy", *both, **library(tmp_path))
        other.submit([fleet.gated()])
        fleet.wait_begun(1)
        environment = library(tmp_path) | sickness("exit 127", tmp_path)
        sick = fleet.worker("--name", "sick", "--campaign", campaign, slots=2, **environment)
        driver.submit(configs(10))
        wait_until(lambda: said(fleet, sick, "for 2 s"))
        # It took what it had room for, and then one job, to see.
        assert queue_counts(fleet, campaign) == {State.PENDING: 10}
        (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts, job.worker) for job in jobs} == {("succeeded", 1, "sick")}
        assert sum(job.releases for job in jobs) == 3
        wait_until(lambda: reasons(fleet, campaign) == {})
        fleet.open_gate()
        assert len(other.gather("ALL", timeout=30)) == 1


@pytest.mark.long
def test_what_was_loaded_once_is_not_the_functions_fault(fleet, campaign, tmp_path):
    """It is known from the moment that it is loaded, and until the campaign is opened anew."""
    with fleet.driver(campaign, FUNCTION) as driver:
        healthy = fleet.worker("--name", "healthy", "--campaign", campaign, **library(tmp_path))
        driver.submit(configs(1, gate=str(tmp_path / "gate")))
        meta = fleet.queue(campaign).meta
        wait_until(lambda: meta().get("loaded") == meta()["revision"])
        (tmp_path / "gate").touch()
        assert [job.state for job in driver.gather("ALL", timeout=30)] == ["succeeded"]
        assert end(healthy) == 0
        sick = fleet.worker("--name", "sick", "--campaign", campaign)
        driver.submit(configs(3))
        wait_until(lambda: said(fleet, sick, "for 2 s"))
        assert queue_counts(fleet, campaign)[State.PENDING] == 3
    with fleet.driver(campaign, FUNCTION) as driver:
        assert {job.state for job in driver.gather("ALL", timeout=30)} == {"failed"}


def queue_counts(fleet: Fleet, campaign: str) -> dict[State, int]:
    """The places where there are jobs, once the worker holds none."""
    queue = fleet.queue(campaign)
    wait_until(lambda: queue.snapshot().counts[State.RUNNING] == 0)
    return {state: count for state, count in queue.snapshot().counts.items() if count}


@pytest.mark.long
def test_a_worker_that_steps_aside_ends_when_it_is_told(fleet, campaign, tmp_path):
    with fleet.driver(campaign, FUNCTION) as driver:
        fleet.worker("--name", "healthy", "--campaign", campaign, **library(tmp_path))
        wait_registered(fleet, "healthy")
        driver.submit(configs(JOBS, gate=str(tmp_path / "gate")))
        sick = fleet.worker("--name", "sick", "--campaign", campaign, "--idle-timeout", "1s")
        wait_until(lambda: said(fleet, sick, "steps aside"))
        (tmp_path / "gate").touch()
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts) for job in jobs} == {("succeeded", 1)}
        assert sick.wait(20) == 0


def test_a_driver_hires_beside_a_sick_worker(fleet, campaign):
    """One that is just being started has not said that it cannot; one that steps aside serves nobody."""
    sick = fleet.worker("--name", "sick", QUEUE_EVAL_PYTHON="/no/such/python")
    wait_registered(fleet, "sick")
    with fleet.driver(campaign, local_workers=True, num_workers=2) as driver:
        driver.submit([fleet.config(x) for x in range(JOBS)])
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts) for job in jobs} == {("succeeded", 1)}
        assert "sick" not in {job.worker for job in jobs}
    assert said(fleet, sick, "cannot start /no/such/python")


def test_a_sick_worker_that_fills_all_places_is_replaced(fleet, campaign):
    sick = fleet.worker("--name", "sick", "--campaign", campaign, "--campaign", f"{campaign}-other", slots=2,
                        QUEUE_EVAL_PYTHON="/no/such/python")  # fmt: skip
    busy = fleet.worker("--name", "busy", "--campaign", campaign, "--campaign", f"{campaign}-other")
    wait_registered(fleet, "sick", "busy")
    with fleet.driver(f"{campaign}-other") as other, fleet.driver(campaign) as driver:
        other.submit([fleet.gated()])
        fleet.wait_begun(1)
        driver.submit([fleet.config(x) for x in range(4)])
        wait_until(lambda: said(fleet, sick, "steps aside"))
        wait_until(lambda: "sick" in reasons(fleet, campaign))
    with fleet.driver(campaign, local_workers=True, num_workers=2) as driver:
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts) for job in jobs} == {("succeeded", 1)}
        assert not {"sick", "busy"} & {job.worker for job in jobs}
        assert busy.poll() is None
