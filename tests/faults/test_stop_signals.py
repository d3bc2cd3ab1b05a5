"""A stop by signal costs no job anything: whoever stops a job signals every process of it."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from queue_eval.model.states import State
from queue_eval.server.lifecycle import server_state, start_server
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import check_all_recorded, end, signal_all, stop_now, wait_registered
from tests.support.marks import long, soak
from tests.support.processes import ignored
from tests.support.waiting import wait_until

METHODS = ["thread", "process", "subprocess"]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
SELDOM = ["thread", "subprocess"]
BOTH = [
    *((signal.SIGTERM, method) for method in METHODS),
    *(pytest.param(number, "process", marks=pytest.mark.long) for number in SIGNALS[1:]),
    *(pytest.param(number, one, marks=pytest.mark.soak) for number in SIGNALS[1:] for one in SELDOM),
]


@pytest.mark.parametrize(("number", "method"), BOTH)
def test_what_runs_is_finished_when_all_processes_are_signalled(fleet, campaign, method, number):
    with fleet.driver(campaign, method=method, max_losses=1) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2), fleet.gated(3)])
        worker = fleet.worker("--campaign", campaign, slots=2)
        fleet.wait_begun(1, 2)
        children = {int(line[2]) for line in fleet.lines()}
        signal_all(worker, number)
        wait_until(lambda: "draining" in fleet.output_of(worker))
        signal_all(worker, number)  # as srun does, within a tenth of a second
        assert all(is_running(pid) for pid in children)
        fleet.open_gate()
        assert worker.wait(20) == 0
        assert fleet.begun() == {1: 1, 2: 1}
        fleet.worker("--campaign", campaign)
        jobs = driver.gather("ALL", timeout=20)
        assert {(job.state, job.attempts, job.releases) for job in jobs} == {("succeeded", 1, 0)}
        check_all_recorded(fleet.queue(campaign), 3)


@pytest.mark.parametrize("worker_last", [True, *long(False)])
@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
def test_a_program_that_dies_of_the_same_signal_costs_its_job_nothing(fleet, campaign, method, worker_last):
    """Three stops: with one attempt and one loss allowed, the job still succeeds."""
    with fleet.driver(campaign, method=method, max_attempts=1, max_losses=1) as driver:
        driver.submit([fleet.config(1, program=["sleep", "60"], gate=str(fleet.folder / "gate"))])
        fleet.open_gate()
        for life in range(3):
            worker = fleet.worker("--campaign", campaign)
            programs = wait_until(lambda worker=worker: programs_of(worker))
            signal_all(worker, signal.SIGTERM, worker_last=worker_last)
            assert worker.wait(20) == 0
            assert not any(is_running(pid) for pid in programs)
            assert fleet.queue(campaign).snapshot().counts[State.PENDING] == 1, f"life {life}"
            assert "given back: drain: SIGTERM; it ended with: subprocess.CalledProcessError" in (
                fleet.output_of(worker)
            )
        queue = fleet.queue(campaign)
        assert [failure["cause"] for failure in queue.failures(1)] == ["released"] * 3


def programs_of(worker: subprocess.Popen[str]) -> list[int]:
    below = psutil.Process(worker.pid).children(recursive=True)
    return [process.pid for process in below if process.name() == "sleep"]


@pytest.mark.parametrize("method", ["process", *long(*SELDOM)])
def test_a_death_just_before_the_workers_own_signal_is_its_doing(fleet, campaign, method):
    """The batch system has come to the child first: the worker must not lease again in between."""
    with fleet.driver(campaign, method=method, max_losses=1) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign)
        fleet.wait_begun(1)
        child = int(fleet.lines()[0][2])
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not is_running(child))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert fleet.begun() == {1: 1}
        fleet.open_gate()
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.state, job.attempts, job.releases) == ("succeeded", 1, 1)


def test_a_request_to_drain_explains_no_error(fleet, campaign):
    """It is no signal to all: what fails meanwhile has failed."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1) | {"raise": "of its own"}])
        worker = fleet.worker("--campaign", campaign, "--name", f"w-{campaign}")
        fleet.wait_begun(1)
        assert fleet.cli("workers", "stop", f"w-{campaign}").returncode == 0
        wait_until(lambda: "draining" in fleet.output_of(worker))
        fleet.open_gate()
        assert worker.wait(20) == 0
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.state, job.cause, job.attempts, job.releases) == ("failed", "error", 1, 0)


@pytest.mark.parametrize("limit", ["memory", *long("time")])
def test_limits_keep_their_outcome_after_a_stop_signal(fleet, campaign, limit):
    time_limit = 1.5 if limit == "time" else None
    more = ("--memory-limit", "200MB") if limit == "memory" else ()
    with fleet.driver(campaign, time_limit=time_limit) as driver:
        worker = fleet.worker("--campaign", campaign, *more)
        driver.submit([fleet.gated(1) | {"eat": 400_000_000 if limit == "memory" else 0}])
        fleet.wait_begun(1)
        worker.send_signal(signal.SIGTERM)
        if limit == "memory":
            wait_until(lambda: "draining" in fleet.output_of(worker))
            fleet.open_gate()
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.state, job.releases) == ("failed", 0)
        assert job.cause == ("timeout" if limit == "time" else "error")
        assert worker.wait(20) == 0


def test_a_drain_gives_back_what_runs_for_too_long(fleet, campaign):
    with fleet.driver(campaign, max_losses=1) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign, "--drain-timeout", "500ms")
        fleet.wait_begun(1)
        assert end(worker, signal.SIGUSR1) == 0
        assert "given back: drain: SIGUSR1" in fleet.output_of(worker)
        fleet.open_gate()
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.state, job.attempts, job.releases) == ("succeeded", 1, 1)


@pytest.mark.long
def test_two_signals_at_once_are_one_and_a_later_one_stops(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign)
        fleet.wait_begun(1)
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
        wait_until(lambda: "draining" in fleet.output_of(worker))
        assert worker.poll() is None
        stop_now(worker, fleet)
        assert worker.wait(20) == 0
        assert fleet.finished() == {}


def test_a_signal_that_was_ignored_stays_ignored(fleet, campaign):
    """`nohup queue-eval worker`."""
    with fleet.driver(campaign) as driver:
        with ignored(signal.SIGHUP):
            worker = fleet.worker("--campaign", campaign, "--name", f"w-{campaign}")
        wait_registered(fleet, f"w-{campaign}")
        worker.send_signal(signal.SIGHUP)
        driver.submit([fleet.config(1)])
        assert driver.gather("ALL", timeout=20)[0].result == 1
        assert "draining" not in fleet.output_of(worker)
        assert end(worker) == 0


def test_a_worker_in_a_batch_job_says_how_long_it_drains(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--campaign", campaign, SLURM_JOB_ID="7", ENVIRONMENT="BATCH")
        fleet.wait_begun(1)
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining (SIGTERM): 1 running; given back after 20 s" in fleet.output_of(worker))
        fleet.open_gate()
        assert worker.wait(20) == 0
        assert driver.gather("ALL", timeout=20)[0].attempts == 1


@pytest.mark.long
@pytest.mark.parametrize("away", ["with the worker", "before it"])
def test_a_server_that_is_stopped_too_charges_nothing(fleet, campaign, away):
    """The embedded server is a process of the job like all others: what is given back waits on disk."""
    with fleet.driver(campaign, max_losses=1) as driver:
        driver.submit([fleet.gated(1), fleet.config(2, program=["sleep", "60"])])
        worker = fleet.worker("--campaign", campaign, "--drain-timeout", "1s", slots=2, lease="30s")
        fleet.wait_begun(1, 2)
        wait_until(lambda: programs_of(worker))
        server = server_state(fleet.home).pid
        assert server is not None
        os.kill(server, signal.SIGTERM)
        if away == "before it":
            wait_until(lambda: not is_running(server))
        signal_all(worker, signal.SIGTERM)
        assert worker.wait(30) == 0
        wait_until(lambda: not is_running(server))
        start_server(fleet.home, keep=True)
        queue = fleet.queue(campaign)
        second = fleet.worker("--campaign", campaign, slots=2)
        wait_until(lambda: fleet.begun()[1] == fleet.begun()[2] == 2)
        assert sorted(one["cause"] for job in (1, 2) for one in queue.failures(job)) == ["released"] * 2
        fleet.open_gate()
        for pid in wait_until(lambda: programs_of(second)):
            os.kill(pid, signal.SIGKILL)
        jobs = {job.id: job for job in driver.gather("ALL", timeout=30)}
        assert (jobs[1].state, jobs[1].attempts, jobs[1].releases) == ("succeeded", 1, 1)
        assert (jobs[2].state, jobs[2].cause, jobs[2].attempts) == ("failed", "error", 1)
