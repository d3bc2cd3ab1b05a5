"""A Ray cluster that dies in parts and whole, under a campaign that goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_eval.campaign.registry import live_workers
from queue_eval.model.states import State
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import Fleet, check_all_recorded, signal_all
from tests.support.marks import long, soak
from tests.support.networks import free_ports
from tests.support.ray_cluster import RayCluster
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*ray is away"),  # drivers are told, as they should be
]  # fmt: skip

JOBS = 500


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    yield cluster
    cluster.close()


def submit(fleet: Fleet, campaign: str, cluster: RayCluster, **more):
    driver = fleet.driver(
        campaign, method="ray", address=cluster.address, max_losses=20, **more
    )  # fmt: skip
    driver.submit([fleet.config(x, sleep_s=0.03) for x in range(JOBS)])
    fleet.worker("--name", "forwarder")
    return driver


def wait_finished(fleet: Fleet, count: int) -> None:
    wait_until(lambda: len(fleet.finished()) >= count, timeout_s=120)


def kill_ray_workers(cluster: RayCluster, _: Fleet) -> None:
    assert cluster.kill("ray::queue_eval") + cluster.kill("ray::IDLE")


def kill_raylet(cluster: RayCluster, _: Fleet) -> None:
    assert cluster.kill("raylet/raylet ")
    cluster.restart()


def kill_all_of_ray(cluster: RayCluster, _: Fleet) -> None:
    assert cluster.kill() > 3
    cluster.restart()


def kill_forwarding_worker(_: RayCluster, fleet: Fleet) -> None:
    fleet.started[-1].send_signal(signal.SIGKILL)
    fleet.started[-1].wait()
    fleet.worker("--name", f"forwarder-{len(fleet.started)}")


@pytest.mark.parametrize(
    "kill", [*long(kill_ray_workers, kill_all_of_ray, kill_forwarding_worker), *soak(kill_raylet)]
)
def test_500_evaluations(
    fleet: Fleet, campaign: str, cluster: RayCluster, kill: Callable[[RayCluster, Fleet], None]
) -> None:
    with submit(fleet, campaign, cluster) as driver:
        for share in (0.2, 0.5):
            wait_finished(fleet, int(JOBS * share))
            kill(cluster, fleet)
        jobs = driver.gather("ALL", timeout=200)
    assert sorted(job.result for job in jobs) == list(range(JOBS))
    check_all_recorded(fleet.queue(campaign), JOBS)
    fleet.started[-1].terminate()
    assert fleet.started[-1].wait(30) == 0
    # Nothing is left running in Ray.
    pids = {int(line[2]) for line in fleet.lines()}
    wait_until(lambda: not any(is_running(pid) for pid in pids), timeout_s=60)


@pytest.mark.long
def test_a_ray_that_is_not_there_yet(fleet: Fleet, campaign: str, cluster: RayCluster) -> None:
    """Jobs go back to the queue, cost nothing, and are run when it is there."""
    cluster.stop()
    with fleet.driver(campaign, method="ray", address=cluster.address) as driver:
        driver.submit([fleet.config(x) for x in range(3)])
        fleet.worker()
        queue = fleet.queue(campaign)
        wait_until(lambda: queue.snapshot().counts[State.RUNNING] > 0, timeout_s=30)
        wait_until(lambda: queue.snapshot().counts[State.PENDING] == 3, timeout_s=60)
        cluster.start()
        assert [job.attempts for job in driver.gather("ALL", timeout=120)] == [1, 1, 1]
    check_all_recorded(queue, 3)


@pytest.mark.long
def test_the_address_file_of_a_cluster_that_died(
    fleet: Fleet, campaign: str, cluster: RayCluster, tmp_path: Path
) -> None:
    """Ray itself would wait for it for 820 s, without a word."""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    file.write_text(dead)
    cluster.stop()
    with fleet.driver(campaign, method="ray") as driver:
        driver.submit([fleet.config(5)])
        worker = fleet.worker("--lease", "30s", RAY_TMPDIR=str(tmp_path))
        why = f"ray is away: no Ray cluster answers at {dead}, which {file} names (Connection refused); "
        wait_until(lambda: why in fleet.output_of(worker), timeout_s=10)
        wait_until(lambda: why in refusal(fleet, campaign), timeout_s=6)
        cluster.start()
        file.write_text(cluster.address)
        assert [job.result for job in driver.gather("ALL", timeout=60)] == [5]
        wait_until(lambda: refusal(fleet, campaign) == "", timeout_s=6)


def refusal(fleet: Fleet, campaign: str) -> str:
    """Why the worker does not serve, as it tells others."""
    (worker,) = live_workers(fleet.queue(campaign).link)
    return worker.card.refused.get(campaign, "")


@pytest.mark.long
def test_cancelling_reaches_ray(fleet: Fleet, campaign: str, cluster: RayCluster) -> None:
    with fleet.driver(campaign, method="ray", address=cluster.address) as driver:
        jobs = driver.submit([fleet.gated(x) for x in range(4)])
        fleet.worker()
        wait_until(lambda: len(fleet.begun()) == 2, timeout_s=60)
        assert driver.cancel(jobs[:2]) == 2
        wait_until(lambda: len(fleet.begun()) == 4, timeout_s=30)
        fleet.open_gate()
        assert sorted(job.state for job in driver.gather("ALL", timeout=30)) == ["cancelled"] * 2 + [
            "succeeded"
        ] * 2
    assert fleet.finished().keys() == {3, 4}


@pytest.mark.parametrize("number", [*long(signal.SIGTERM), *soak(signal.SIGINT)])
def test_a_forwarder_outlives_a_stop_signal_to_all(fleet, campaign, cluster, number) -> None:
    with fleet.driver(campaign, method="ray", address=cluster.address, max_losses=1) as driver:
        driver.submit([fleet.gated(x) for x in range(3)])
        worker = fleet.worker(slots=2)
        wait_until(lambda: len(fleet.begun()) == 2, timeout_s=60)
        signal_all(worker, number)
        wait_until(lambda: "draining" in fleet.output_of(worker))
        signal_all(worker, number)
        fleet.open_gate()
        assert worker.wait(30) == 0
        assert len(fleet.finished()) == 2
        fleet.worker()
        jobs = driver.gather("ALL", timeout=60)
        assert {(job.state, job.attempts, job.releases) for job in jobs} == {("succeeded", 1, 0)}
    check_all_recorded(fleet.queue(campaign), 3)


@pytest.mark.long
def test_what_dies_with_a_ray_of_the_workers_own_is_given_back(fleet: Fleet, campaign: str) -> None:
    """The forwarder has started it: its processes are signalled, too, and die."""
    with fleet.driver(campaign, method="ray", num_cpus=1, max_losses=1) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker()
        wait_until(fleet.begun, timeout_s=60)
        signal_all(worker, signal.SIGTERM)
        assert worker.wait(60) == 0
        fleet.open_gate()
        fleet.worker()
        (job,) = driver.gather("ALL", timeout=60)
        assert (job.state, job.attempts) == ("succeeded", 1)
        assert [failure["cause"] for failure in fleet.queue(campaign).failures(1)] == ["released"]
