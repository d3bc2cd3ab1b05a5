"""Which worker gets which job: by the label of its campaign, by the slots that the job takes."""

from __future__ import annotations

import json

import pytest

from queue_eval import Job
from queue_eval.driver import chores
from queue_eval.driver.evaluators import ProcessPoolEvaluator
from queue_eval.model.states import State
from tests.support.fault_fleet import WORK, Fleet, check_all_recorded, wait_registered
from tests.support.marks import long, soak
from tests.support.waiting import wait_until


def uneven(i: int) -> float:
    """Durations (s) that do not end together."""
    return 0.11 + 0.013 * (i * 3 % 7)


def workers_of(fleet: Fleet, campaign: str) -> set[str]:
    """Who has attended the campaign."""
    queue = fleet.queue(campaign)
    return {name.decode() for name in queue.link.client.hkeys(queue.keys.column("roster"))}


# Labels


def test_a_campaign_with_a_label_is_served_by_workers_that_name_it(fleet, campaign):
    plain = f"{campaign}-plain"
    with fleet.driver(campaign, queue="gpu") as gpu, fleet.driver(plain) as other:
        fleet.worker("--name", f"{campaign}-cpu-worker")
        fleet.worker("--name", f"{campaign}-gpu-worker", "--queue", "gpu", "--queue", "tpu")
        wait_registered(fleet, f"{campaign}-cpu-worker", f"{campaign}-gpu-worker")
        gpu.submit([fleet.config(i) for i in range(20)])
        other.submit([fleet.config(i) for i in range(20)])
        assert len(gpu.gather("ALL", timeout=20)) == len(other.gather("ALL", timeout=20)) == 20
        assert workers_of(fleet, campaign) == {f"{campaign}-gpu-worker"}
        assert workers_of(fleet, plain) == {f"{campaign}-cpu-worker"}
    shown = {one["campaign"]: one["queue"] for one in json.loads(fleet.cli("campaigns", "--json").stdout)}
    assert (shown[campaign], shown[plain]) == ("gpu", "default")
    assert json.loads(fleet.cli("status", campaign, "--json").stdout)["queue"] == "gpu"
    queues = {one["name"]: one["queues"] for one in json.loads(fleet.cli("workers", "--json").stdout)}
    assert queues[f"{campaign}-gpu-worker"] == ["gpu", "tpu"]
    assert queues[f"{campaign}-cpu-worker"] is None


@pytest.mark.long
def test_opening_with_another_label_moves_a_campaign(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(i) for i in range(3)])
        fleet.worker("--name", f"{campaign}-cpu")
        fleet.wait_begun(1)
    with fleet.driver(campaign, queue="gpu") as driver:
        queue = fleet.queue(campaign)
        fleet.worker("--name", f"{campaign}-gpu", "--queue", "gpu", slots=2)
        fleet.wait_begun(1, 2, 3)
        fleet.open_gate()
        jobs = driver.gather("ALL", timeout=20)
        assert {job.id: job.worker for job in jobs} == {
            1: f"{campaign}-cpu", 2: f"{campaign}-gpu", 3: f"{campaign}-gpu"
        }  # fmt: skip
        assert fleet.begun() == {1: 1, 2: 1, 3: 1}, "what ran already was finished where it ran"
        wait_until(lambda: [one.worker for one in queue.snapshot().workers] == [f"{campaign}-gpu"])
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(7)])
        (job,) = driver.gather("ALL", timeout=20)
        assert job.worker == f"{campaign}-cpu", "and back again"


def test_a_campaign_named_by_a_worker_is_served_whatever_its_label(fleet, campaign):
    with fleet.driver(campaign, queue="gpu") as driver:
        fleet.worker("--campaign", campaign)
        driver.submit([fleet.config(1)])
        assert driver.gather("ALL", timeout=20)[0].result == 1


def test_local_workers_serve_the_label(own_fleet, campaign):
    with own_fleet.driver(campaign, queue="gpu", local_workers=True) as driver:
        driver.submit([own_fleet.config(1)])
        assert driver.gather("ALL", timeout=30)[0].result == 1
        driver.cancel()


# Slots


@pytest.mark.parametrize("method", ["thread", *long("subprocess"), *soak("process")])
def test_a_wide_job_is_not_left_behind_by_a_stream_of_narrow_ones(fleet, campaign, method):
    with fleet.driver(campaign, method=method) as driver:
        fleet.worker("--campaign", campaign, "--name", f"{campaign}-narrow")
        fleet.worker("--campaign", campaign, "--name", f"{campaign}-wide", slots=2)
        before = driver.submit([fleet.config(i, sleep_s=uneven(i)) for i in range(8)])
        (wide,) = driver.submit([fleet.config("wide", sleep_s=0.12)], slots=2)
        after = driver.submit([fleet.config(i, sleep_s=uneven(i)) for i in range(8, 30)])
        jobs = driver.gather("ALL", timeout=60)
        assert len(jobs) == len(before) + len(after) + 1
        assert wide.worker == f"{campaign}-wide"
        order = [int(line[1]) for line in fleet.lines() if line[0] == "start"]
        overtakers = [job for job in order[: order.index(wide.id)] if job > wide.id]
        assert len(overtakers) <= 6, "only what the other worker ran while slots ran free"
        check_all_recorded(fleet.queue(campaign), len(jobs))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.* nobody serves it")  # which is so while it starts
def test_a_wide_job_that_no_worker_is_wide_enough_for_keeps_nobody_waiting(fleet, campaign, monkeypatch):
    monkeypatch.setattr(chores, "UNSERVED_S", 0.2)
    monkeypatch.setattr(chores, "LOOK_EVERY_S", 0.1)
    with fleet.driver(campaign) as driver:
        fleet.worker("--campaign", campaign, slots=2)
        driver.submit([fleet.config(0)], slots=3)
        narrow = driver.submit([fleet.config(i) for i in range(1, 30)])
        gathered: list[Job] = []

        def gather_what_there_is() -> None:
            gathered.extend(driver.gather("BATCH", len(narrow), timeout=30))
            gathered.extend(driver.gather("ALL", timeout=2.5))

        with pytest.warns(UserWarning, match="takes 3 slots, and no worker that serves it has more than 2"):
            gather_what_there_is()
        assert sorted(job.id for job in gathered) == [job.id for job in narrow]
        assert all(job.state is State.SUCCEEDED for job in narrow)
        fleet.worker("--campaign", campaign, slots=3)
        assert driver.gather("ALL", timeout=20)[0].id == 1


@pytest.mark.long
def test_two_campaigns_share_a_worker_with_a_wide_job(fleet, campaign):
    other = f"{campaign}-other"
    with fleet.driver(campaign) as driver, fleet.driver(other) as stream:
        fleet.worker("--campaign", campaign, "--campaign", other, slots=2)
        running = stream.submit([fleet.config(i, sleep_s=uneven(i)) for i in range(30)])
        driver.submit([fleet.config(i, sleep_s=uneven(i)) for i in range(2)])
        (wide,) = driver.submit([fleet.config("wide")], slots=2)
        driver.gather("ALL", timeout=30)
        assert wide.result == "wide"
        assert fleet.queue(other).snapshot().outstanding, "the other campaign's jobs made room for it"
        assert len(stream.gather("ALL", timeout=30)) == len(running)


def test_wide_jobs_only_and_an_idle_worker(fleet, campaign):
    """They have a marker of their own: a worker that waits is told of them."""
    with fleet.driver(campaign) as driver:
        fleet.worker("--campaign", campaign, slots=4)
        for width in (2, 4, 3):
            driver.submit([fleet.config(width)], slots=width)
            assert driver.gather("ALL", timeout=20)[0].result == width


def test_a_worker_that_dies_with_a_wide_job(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)], slots=2)
        first = fleet.worker("--campaign", campaign, slots=2)
        fleet.wait_begun(1)
        first.kill()
        first.wait()
        fleet.open_gate()
        fleet.worker("--campaign", campaign, slots=2)
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.result, job.attempts) == (1, 2)


class Limited(ProcessPoolEvaluator):
    _most_running = 2


def test_no_more_run_than_the_campaign_allows(fleet, campaign):
    with Limited(WORK, home=fleet.home, campaign=campaign, local_workers=False) as driver:
        fleet.worker("--campaign", campaign, slots=3)
        fleet.worker("--campaign", campaign, slots=3)
        driver.submit([fleet.gated(i) for i in range(8)])
        wait_until(lambda: len(fleet.begun()) == 2)
        queue = fleet.queue(campaign)
        assert queue.snapshot().counts[State.RUNNING] == 2
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=30)) == 8
        check_all_recorded(queue, 8)


# What a user gets wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "5"], "GPU 5 is not among those that CUDA_VISIBLE_DEVICES lets this worker use (0,1)"),
        (["--gpus", "x"], "--gpus 'x' is not valid"),
        (["--cores", "60000"], "core 60000 is not among"),
        (["--cores-per-slot", "5000"], "1 slots with 5000 cores each need 5000 cores"),
        (["--queue", "no such!"], "queue 'no such!' is not valid"),
    ],
)
def test_what_slots_cannot_own_is_one_line(fleet, monkeypatch, arguments, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    ended = fleet.cli("worker", *arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("queue-eval: ")
    assert said in line


@pytest.mark.parametrize("slots", [0, -1, 1.5, "2", True, 10_001])
def test_slots_that_cannot_be(fleet, campaign, slots):
    with fleet.driver(campaign) as driver, pytest.raises(ValueError, match="slots is"):
        driver.submit([{"x": 1}], slots=slots)


def test_a_label_that_cannot_be(fleet, campaign):
    with pytest.raises(ValueError, match="queue 'a b' is not valid"):
        fleet.driver(campaign, queue="a b")


def test_a_worker_hears_of_another_campaign_while_one_waits_for_its_ray(fleet, campaign):
    """Jobs that it has no room for must not make it deaf to those that it has room for."""
    plain = f"{campaign}-plain"
    nobody = {"address": "127.0.0.1:1", "num_workers": 1}
    with fleet.driver(campaign, method="ray", **nobody) as ray, fleet.driver(plain) as other:
        fleet.worker("--campaign", campaign, "--campaign", plain, slots=2)
        other.submit([fleet.config()])
        assert len(other.gather("ALL", timeout=20)) == 1
        ray.submit([fleet.config(i) for i in range(9)])
        queue = fleet.queue(campaign)
        wait_until(lambda: queue.snapshot().counts[State.RUNNING] > 0)
        for _ in range(3):
            other.submit([fleet.config()])
            assert len(other.gather("ALL", timeout=10)) == 1
        assert queue.snapshot().counts[State.PENDING] > 0
