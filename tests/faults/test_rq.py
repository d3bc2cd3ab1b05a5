"""RQ workers, the forwarding worker and RQ's Redis, killed in the middle of everything."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from queue_eval.model.states import State
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import Fleet, check_all_recorded, end, signal_all
from tests.support.marks import long, soak
from tests.support.rq_fleet import RqFleet, RqRedis
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:.*rq is away"),  # drivers are told, as they should be
]  # fmt: skip

COUNT = 500


@pytest.fixture(params=[*long("rq.Worker"), *soak("rq.SimpleWorker")])
def worker_class(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["log", "nothing on disk"])
def rq_redis(request: pytest.FixtureRequest) -> Iterator[RqRedis]:
    server = RqRedis(durable=request.param)
    yield server
    server.close()


@pytest.fixture
def rq_fleet(rq_redis: RqRedis, worker_class: str) -> Iterator[RqFleet]:
    rq_fleet = RqFleet(rq_redis.url, worker_class=worker_class)
    yield rq_fleet
    rq_fleet.close()


def either(is_long_with_log: bool):
    """RQ's Redis with a log and without, with both kinds of workers; one of the four is a long test."""
    chosen = (is_long_with_log, "rq.Worker")
    return pytest.mark.parametrize(
        ("rq_redis", "worker_class"),
        [
            pytest.param(
                log, kind, id=f"{'log' if log else 'nothing on disk'}-{kind}",
                marks=pytest.mark.long if (log, kind) == chosen else pytest.mark.soak,
            )
            for log in (True, False) for kind in ("rq.Worker", "rq.SimpleWorker")
        ],
        indirect=True,
    )  # fmt: skip


def driver_of(fleet: Fleet, campaign: str, rq_fleet: RqFleet):
    return fleet.driver(
        campaign, method="rq", rq_url=rq_fleet.url, rq_queue=rq_fleet.queue, num_workers=8, max_losses=1000
    )


def kill_until_done(fleet: Fleet, campaign: str, rq_fleet: RqFleet, kill, parts: int) -> None:
    """Five hundred evaluations; `kill` is called after each of so many parts of them."""
    with driver_of(fleet, campaign, rq_fleet) as driver:
        driver.submit([fleet.config(x, sleep_s=0.02 + 0.03 * (x % 2)) for x in range(COUNT)])
        queue = fleet.queue(campaign)
        for part in range(1, parts + 1):
            goal = part * COUNT // (parts + 1)
            wait_until(lambda goal=goal: queue.snapshot().counts[State.SUCCEEDED] >= goal, timeout_s=90)
            assert queue.snapshot().conserved
            kill()
        jobs = driver.gather("ALL", timeout=120)
        assert sorted(job.result for job in jobs) == list(range(COUNT))
        assert {job.state for job in jobs} == {"succeeded"}
    check_all_recorded(queue, COUNT)
    assert min(fleet.begun().values()) == 1
    children = {int(line[2]) for line in fleet.lines()}
    wait_until(lambda: not any(is_running(pid) for pid in children))
    wait_until(lambda: not rq_fleet.strays())


def finish(fleet: Fleet, rq_fleet: RqFleet, worker) -> None:
    """The forwarding worker ends in good order, and nothing is left in RQ."""
    rq_fleet.wait_until_nothing_is_left(timeout_s=45)
    assert end(worker) == 0


@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_rq_workers_are_killed(fleet, campaign, rq_fleet):
    worker = fleet.worker(slots=8)

    def kill() -> None:
        rq_fleet.kill_worker()
        rq_fleet.start_worker()

    kill_until_done(fleet, campaign, rq_fleet, kill, parts=6)
    finish(fleet, rq_fleet, worker)


@pytest.mark.long
@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_rq_workers_are_killed_with_all_they_have_started(fleet, campaign, rq_fleet):
    """As when their host dies."""
    worker = fleet.worker(slots=8)

    def kill() -> None:
        worker = rq_fleet.workers.pop(0)
        for process in rq_fleet.family(worker.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait()
        rq_fleet.start_worker()

    kill_until_done(fleet, campaign, rq_fleet, kill, parts=4)
    finish(fleet, rq_fleet, worker)


@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_the_forwarding_worker_is_killed(fleet, campaign, rq_fleet):
    """What it had forwarded goes on, and is joined by the next one: next to nothing runs twice."""
    numbers = itertools.count()
    workers = [fleet.worker("--name", f"w{next(numbers)}", slots=8)]

    def kill() -> None:
        end(workers[0], signal.SIGKILL)
        workers[0] = fleet.worker("--name", f"w{next(numbers)}", slots=8)

    kill_until_done(fleet, campaign, rq_fleet, kill, parts=4)
    # A report that was told and not settled when it was killed stays among the replies and is told again.
    assert sum(fleet.begun().values()) - COUNT <= 4
    end(workers[0])


# RQ workers take their time to come back, which the driver may tell of.
@either(is_long_with_log=True)
@pytest.mark.filterwarnings("ignore:.*no RQ worker listens:UserWarning")
def test_rqs_redis_is_killed(fleet, campaign, rq_redis, rq_fleet):
    """It comes back with what it had written, or empty."""
    worker = fleet.worker(slots=8)

    def kill() -> None:
        rq_redis.kill()
        rq_redis.start()

    with rq_fleet.supervised():
        kill_until_done(fleet, campaign, rq_fleet, kill, parts=4)
        finish(fleet, rq_fleet, worker)


@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_an_rq_worker_that_was_frozen_comes_back(fleet, campaign, rq_fleet):
    """Its attempt has been given up and runs again elsewhere; its late success counts, once."""
    worker = fleet.worker(slots=8)
    with driver_of(fleet, campaign, rq_fleet) as driver:
        driver.submit([fleet.gated("x")])
        fleet.wait_begun(1)
        (child,) = rq_fleet.children()
        hosts = {parent.pid for parent in psutil.Process(child).parents()}
        frozen = [process for process in rq_fleet.processes() if process.pid in hosts]
        for process in frozen:
            process.suspend()
        wait_until(lambda: fleet.begun()[1] == 2, timeout_s=60)
        os.kill(next(pid for pid in rq_fleet.children() if pid != child), signal.SIGSTOP)
        fleet.open_gate()
        for process in frozen:
            process.resume()
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.state, job.result, job.attempts) == ("succeeded", "x", 2)
        driver.submit([fleet.config(x) for x in range(20)])
        assert len(driver.gather("ALL", timeout=60)) == 20
    check_all_recorded(fleet.queue(campaign), 21)
    assert set(fleet.begun().values()) == {1, 2}
    finish(fleet, rq_fleet, worker)


@either(is_long_with_log=False)
def test_rqs_redis_is_away_when_an_evaluation_ends(fleet, campaign, rq_redis, rq_fleet):
    """Its report waits for it, however long the evaluation has taken."""
    worker = fleet.worker(slots=8)
    with driver_of(fleet, campaign, rq_fleet) as driver:
        driver.submit([fleet.gated("x")])
        fleet.wait_begun(1)
        threading.Event().wait(1.5)  # past the attempt's first sign of life
        rq_redis.kill()
        fleet.open_gate()
        wait_until(lambda: fleet.finished() == {1: 1})
        threading.Event().wait(12.0)  # longer than signs of life are valid
        rq_redis.start()
        (job,) = driver.gather("ALL", timeout=60)
        assert (job.result, job.attempts) == ("x", 1)
    assert fleet.begun() == {1: 1}
    end(worker)


@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_a_forwarder_outlives_a_stop_signal_to_all(fleet, campaign, rq_fleet):
    with driver_of(fleet, campaign, rq_fleet) as driver:
        driver.submit([fleet.gated(x) for x in range(3)])
        worker = fleet.worker()
        wait_until(fleet.begun)
        signal_all(worker, signal.SIGTERM)
        wait_until(lambda: "draining" in fleet.output_of(worker))
        signal_all(worker, signal.SIGTERM)
        fleet.open_gate()
        assert worker.wait(30) == 0
        fleet.worker()
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts) for job in jobs} == {("succeeded", 1)}
    check_all_recorded(fleet.queue(campaign), 3)


@pytest.mark.parametrize("worker_class", long("rq.Worker"), indirect=True)
@pytest.mark.parametrize("rq_redis", [True], indirect=True, ids=["log"])
def test_an_attempt_outlives_a_stop_signal_to_all_of_rq(fleet, campaign, rq_fleet):
    """RQ's own workers finish what runs; their work horses would die of it."""
    with driver_of(fleet, campaign, rq_fleet) as driver:
        driver.submit([fleet.gated(x) for x in range(2)])
        fleet.worker()
        fleet.wait_begun(1, 2)
        for process in rq_fleet.processes():
            process.send_signal(signal.SIGTERM)
        fleet.open_gate()
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts, job.releases) for job in jobs} == {("succeeded", 1, 0)}
        assert fleet.begun() == {1: 1, 2: 1}
