"""Workers and servers that are killed, frozen and started again, with real processes."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
from collections import Counter

import pytest

from queue_eval.model.states import State
from queue_eval.server.lifecycle import start_server
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import (
    WORK,
    Fleet,
    check_all_recorded,
    end,
    kill_and_count,
    kill_server,
    wait_registered,
    wait_state,
)
from tests.support.marks import long, soak
from tests.support.waiting import wait_until


def spooled(fleet: Fleet) -> int:
    """How many settlements lie on disk."""
    return sum(len(file.read_text().splitlines()) for file in fleet.home.glob("spool/*.jsonl"))


@pytest.mark.parametrize("method", ["process", *long("thread")])
def test_what_a_killed_worker_held_runs_elsewhere(fleet, campaign, method):
    """At once: its lease is long, but its neighbour sees that it is dead."""
    with fleet.driver(campaign, method=method) as driver:
        driver.submit([fleet.gated(x) for x in range(2)])
        first = fleet.worker(slots=2, lease="10m")
        fleet.wait_begun(1, 2)
        children = {int(line[2]) for line in fleet.lines()}
        fleet.worker("--name", "second", slots=2, lease="10m")
        wait_registered(fleet, "second")
        assert end(first, signal.SIGKILL) != 0
        wait_until(lambda: fleet.begun() == {1: 2, 2: 2})
        wait_until(lambda: not any(is_running(pid) for pid in children))
        fleet.open_gate()
        assert {(j.state, j.attempts, j.worker) for j in driver.gather("ALL", timeout=20)} == {
            ("succeeded", 2, "second")
        }
    check_all_recorded(fleet.queue(campaign), 2)


@pytest.mark.long
def test_a_death_is_seen_by_those_it_concerns(fleet, campaign):
    """Workers of other campaigns see it, too, and must not keep it from those of this one."""
    with fleet.driver(campaign) as driver, fleet.driver(f"{campaign}-other"):
        driver.submit([fleet.gated(1)])
        first = fleet.worker(lease="10m")
        fleet.wait_begun(1)
        for i in range(3):
            fleet.worker("--name", f"other{i}", "--campaign", f"{campaign}-other", lease="10m")
        wait_registered(fleet, "other0", "other1", "other2")
        end(first, signal.SIGKILL)
        # Only afterwards, so that the others have seen it when this one begins.
        fleet.worker("--campaign", campaign, lease="10m")
        wait_until(lambda: fleet.begun()[1] == 2)
        fleet.open_gate()
        assert [job.attempts for job in driver.gather("ALL", timeout=20)] == [2]


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_worker_whose_folder_was_removed(fleet, campaign, method):
    """It runs on: no job may be lost because somebody tidied up."""
    folder = fleet.folder
    fleet.folder = folder / "away"
    fleet.folder.mkdir()
    worker = fleet.worker("--name", "homeless")
    fleet.folder = folder
    wait_registered(fleet, "homeless")
    shutil.rmtree(folder / "away")
    with fleet.driver(campaign, method=method) as driver:
        driver.submit([fleet.config(x) for x in range(2)])
        jobs = driver.gather("ALL", timeout=30)
        assert [(job.state, job.attempts) for job in jobs] == [("succeeded", 1)] * 2
    assert end(worker) == 0


def test_the_lease_of_a_worker_killed_on_another_machine_expires(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        first = fleet.worker(lease="1s")
        fleet.wait_begun(1)
        queue = fleet.queue(campaign)
        first.kill()
        first.wait()
        # As seen from another machine: nobody knows of its death.
        client = queue.link.client
        for key in client.keys("qe:machine:*"):
            client.delete(key)
        fleet.open_gate()
        fleet.worker(lease="1s")
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.state, job.attempts) == ("succeeded", 2)


def churn(fleet: Fleet, campaign: str, method: str, count: int, every_s: float) -> None:
    """Two workers of two slots, one of them killed and replaced again and again."""
    numbers = itertools.count()

    def start() -> tuple[str, subprocess.Popen[str]]:
        name = f"w{next(numbers)}"
        return name, fleet.worker("--name", name, slots=2)

    kills = held = 0
    with fleet.driver(campaign, method=method, max_losses=1000) as driver:
        driver.submit([fleet.config(x, sleep_s=random.uniform(0.005, 0.05)) for x in range(count)])
        workers = [start() for _ in range(2)]
        queue = fleet.queue(campaign)
        pause = threading.Event()
        while (before := queue.snapshot().counts[State.SUCCEEDED]) < count:
            # The point of the test is its tempo; but a machine that is slow must get somewhere between kills.
            pause.wait(every_s)
            next_kill = min(count, before + count // 20)
            wait_until(
                lambda next_kill=next_kill: queue.snapshot().counts[State.SUCCEEDED] >= next_kill, 60
            )
            assert queue.snapshot().conserved
            held += kill_and_count(queue, *workers[kills % 2])
            workers[kills % 2] = start()
            kills += 1
        jobs = driver.gather("ALL", timeout=60)
        assert [(job.state, job.result) for job in sorted(jobs, key=lambda job: job.id)] == [
            ("succeeded", x) for x in range(count)
        ]
    assert kills >= 3
    check_all_recorded(queue, count)
    begun = fleet.begun()
    assert len(begun) == count
    # What a victim held had run, was running, or had not begun: nothing else runs again.
    assert sum(begun.values()) - count <= held
    assert min(fleet.finished().values()) >= 1


@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
def test_workers_that_are_killed_all_the_time(fleet, campaign, method):
    churn(fleet, campaign, method, 100 if method == "subprocess" else 300, 0.4)


@pytest.mark.soak
@pytest.mark.timeout(500)
@pytest.mark.parametrize("method", ["thread", "process", "subprocess"])
def test_two_thousand_evaluations_while_workers_are_killed(fleet, campaign, method):
    churn(fleet, campaign, method, 2000, 1.0)


@pytest.mark.parametrize("method", ["thread", "process"])
def test_the_server_is_killed_while_jobs_run(fleet, campaign, method):
    """What ended while it was away is delivered; the driver and the worker have waited."""
    with fleet.driver(campaign, method=method) as driver:
        driver.submit([fleet.gated(x) for x in range(2)] + [fleet.config(2), fleet.config(3)])
        worker = fleet.worker(slots=2)
        fleet.wait_begun(1, 2)
        kill_server(fleet)
        fleet.open_gate()
        wait_until(lambda: fleet.finished() == {1: 1, 2: 1})
        wait_until(lambda: spooled(fleet) == 2)
        start_server(fleet.home, keep=True)
        assert [job.result for job in sorted(driver.gather("ALL", timeout=30), key=lambda j: j.id)] == [
            0, 1, 2, 3
        ]  # fmt: skip
        assert worker.poll() is None
        assert set(fleet.begun().values()) == {1}
        check_all_recorded(fleet.queue(campaign), 4)
        wait_until(lambda: spooled(fleet) == 0)


@pytest.mark.parametrize("is_neighbour_waiting", [False, *long(True)])
def test_the_worker_dies_too_while_the_server_is_away(fleet, campaign, is_neighbour_waiting):
    """Its results are on disk: another worker delivers them, and runs only what had not ended."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(3)] + [fleet.gated(3, "never")])
        worker = fleet.worker(slots=4, lease="10s")
        fleet.wait_begun(1, 2, 3, 4)
        if is_neighbour_waiting:
            fleet.worker("--name", "neighbour", slots=4, lease="10s")
            wait_registered(fleet, "neighbour")
        kill_server(fleet)
        fleet.open_gate()
        wait_until(lambda: spooled(fleet) == 3)
        worker.kill()
        worker.wait()
        fleet.open_gate("never")
        if not is_neighbour_waiting:
            fleet.worker(slots=4, lease="10s")
        start_server(fleet.home, keep=True)
        assert len(driver.gather("ALL", timeout=40)) == 4
    begun = fleet.begun()
    assert begun == {1: 1, 2: 1, 3: 1, 4: 2}
    check_all_recorded(fleet.queue(campaign), 4)
    wait_until(lambda: spooled(fleet) == 0)


def test_the_server_is_killed_again_and_again(fleet, campaign):
    """In the middle of everything: each job is recorded once, and nothing acknowledged is lost."""
    with fleet.driver(campaign, max_losses=1000) as driver:
        submitted = driver.submit([fleet.config(x, sleep_s=0.01) for x in range(200)])
        assert len(submitted) == 200
        fleet.worker(slots=2)
        for part in (20, 80, 140):
            wait_until(lambda part=part: len(fleet.finished()) > part)
            kill_server(fleet)
            start_server(fleet.home, keep=True)
        jobs = driver.gather("ALL", timeout=60)
        assert sorted(job.result for job in jobs) == list(range(200))
    check_all_recorded(fleet.queue(campaign), 200)
    # The worker has lived through it all, so none of its attempts was lost.
    assert set(fleet.begun().values()) == {1}


@pytest.mark.parametrize("fails", [True, *long(False)])
def test_a_frozen_worker_comes_back(fleet, campaign, fails):
    """Its lease has expired, its job runs elsewhere: a late success counts, a late failure does not."""
    more = {"raise": "too late"} if fails else {}
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config("frozen", gate=str(fleet.folder / "first"), **more)])
        frozen = fleet.worker("--name", "frozen", lease="1s")
        fleet.wait_begun(1)
        frozen.send_signal(signal.SIGSTOP)
        try:
            fleet.worker("--name", "other", lease="1s")
            wait_until(lambda: fleet.begun()[1] == 2)
            (child, other) = (int(line[2]) for line in fleet.lines())
            # Only the first attempt goes on: the second waits where it is.
            os.kill(other, signal.SIGSTOP)
            fleet.open_gate("first")
            if not fails:
                wait_until(lambda: fleet.finished() == {1: 1})
        finally:
            frozen.send_signal(signal.SIGCONT)
        if not fails:
            (job,) = driver.gather("ALL", timeout=20)
            assert (job.state, job.worker, job.result) == ("succeeded", "frozen", "frozen")
            wait_until(lambda: not is_running(other))
            check_all_recorded(fleet.queue(campaign), 1)
            return
        # It has settled, which is known when it takes on something else.
        driver.submit([fleet.config("next")])
        (later,) = driver.gather("BATCH", 1, timeout=20)
        assert (later.id, later.worker) == (2, "frozen")
        snapshot = fleet.queue(campaign).snapshot()
        assert (snapshot.counts[State.RUNNING], snapshot.counts[State.FAILED]) == (1, 0)
        os.kill(other, signal.SIGCONT)
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.id, job.state, job.worker) == (1, "failed", "other")
        assert child != other


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_poison_job_is_quarantined(fleet, campaign, method):
    with fleet.driver(campaign, method=method, max_losses=3) as driver:
        driver.submit([fleet.config(x) for x in range(3)] + [fleet.config(3, poison=1)])
        driver.submit([fleet.config(x) for x in range(4, 8)])
        fleet.worker(slots=1)
        jobs = {job.id: job for job in driver.gather("ALL", timeout=40)}
        poisoned = jobs.pop(4)
        assert (poisoned.state, poisoned.cause, poisoned.attempts) == ("failed", "lost", 3)
        assert "exit status 1" in poisoned.error
        assert {(job.state, job.attempts) for job in jobs.values()} == {("succeeded", 1)}
    assert fleet.begun() == Counter({job: 3 if job == 4 else 1 for job in range(1, 9)})


# Each death leaves the campaign without a worker until the next one has started.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.* nobody serves it")
def test_a_poison_job_that_kills_its_worker_is_quarantined(fleet, campaign):
    """Prefetched neighbours are not taken for poison."""

    def kill_worker(config):
        import os
        import signal

        if config["x"] == 5:
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return config["x"]

    with fleet.driver(campaign, kill_worker, max_losses=3) as driver:
        driver.submit([{"x": x} for x in range(100)])
        done = threading.Event()
        jobs = []

        def gather() -> None:
            jobs.extend(driver.gather("ALL", timeout=60))
            done.set()

        thread = threading.Thread(target=gather)
        thread.start()
        worker = fleet.worker()
        while not done.wait(0.02):
            if worker.poll() is not None:
                worker = fleet.worker()
        thread.join()
        failed = [job for job in jobs if job.state != "succeeded"]
        assert [(job.id, job.cause, job.attempts) for job in failed] == [(6, "lost", 3)]
        assert len(jobs) == 100
    snapshot = fleet.queue(campaign).snapshot()
    assert snapshot.conserved
    wait_state(fleet.queue(campaign), State.SUCCEEDED, 99)


def test_two_drivers_on_one_campaign(fleet, campaign):
    with fleet.driver(campaign) as one, fleet.driver(campaign, WORK, reuse=False) as two:
        one.submit([fleet.config(x) for x in range(20)])
        two.submit([fleet.config(x) for x in range(20, 40)])
        fleet.worker(slots=2)
        assert sorted(job.result for job in one.gather("ALL", timeout=20)) == list(range(20))
        assert sorted(job.result for job in two.gather("ALL", timeout=20)) == list(range(20, 40))
    check_all_recorded(fleet.queue(campaign), 40)
