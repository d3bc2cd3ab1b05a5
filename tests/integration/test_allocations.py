"""Workers inside the allocations of a scheduler: slots, time limit, cores, and what others see of them."""

from __future__ import annotations

import json
import os
import re
import time

import psutil
import pytest

from queue_eval.campaign.registry import WorkerCard
from tests.support.executor_harness import is_running
from tests.support.fake_squeue import fake_squeue
from tests.support.fault_fleet import Fleet, end
from tests.support.processes import command_line, environment_of
from tests.support.waiting import wait_until
from workers.resources import THREAD_LIMITS

TELL = "tests.support.slot_functions:tell"
SLURM = {
    "SLURM_JOB_ID": "71", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "4", "ENVIRONMENT": "BATCH",
    "SLURMD_NODENAME": "node07", "SLURM_RESTART_COUNT": "2", "SLURM_CPUS_ON_NODE": "3",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "SGE_"))] + [*THREAD_LIMITS]:
        monkeypatch.delenv(name, raising=False)


def told_by_workers(fleet: Fleet) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(fleet.cli("workers", "--json").stdout)}


def test_what_a_scheduler_says_is_shown(fleet, campaign):
    plain, other = f"{campaign}-plain", f"{campaign}-other"
    with fleet.driver(campaign) as driver:
        fleet.worker("--campaign", campaign, "--name", plain)
        wait_until(lambda: plain in told_by_workers(fleet), 60)
        assert "SCHEDULER JOB" not in fleet.cli("workers").stdout
        assert "scheduler" not in told_by_workers(fleet)[plain]
        assert "SCHEDULER JOB" not in fleet.cli("status", campaign).stdout
        end(fleet.started[0], timeout_s=60)
        fleet.worker(
            "-n", "auto", "--campaign", campaign, "--name", other, SLURM_JOB_END_TIME="1900000000", **SLURM
        )
        (job,) = driver.submit([fleet.gated(1)])
        wait_until(fleet.begun, 60)
        expected = {
            "scheduler": "slurm", "scheduler_job": "70_4", "node": "node07", "restarts": 2,
            "allocation_ends_at": "2030-03-17T17:46:40+00:00",
        }  # fmt: skip
        assert told_by_workers(fleet)[other].items() >= {**expected, "slots": 3}.items()
        (row,) = json.loads(fleet.cli("status", campaign, "--json").stdout)["workers"]
        assert row.items() >= expected.items()
        shown = json.loads(fleet.cli("job", campaign, str(job.id), "--json").stdout)
        assert shown["allocation"] == expected
        for command in (("workers",), ("status", campaign)):
            header, line = fleet.cli(*command).stdout.splitlines()[-2:]
            assert re.search(r"SCHEDULER JOB +NODE +RESTARTS +ENDS$", header)
            assert re.search(r" 70_4 +node07 +2 +2030-03-17 17:46:40 UTC$", line)
        text = fleet.cli("job", campaign, str(job.id)).stdout
        line = "allocation slurm job 70_4, on node node07, restarted 2 times, ends 2030-03-17 17:46:40 UTC\n"
        assert line in text
        fleet.open_gate()
        assert driver.gather("ALL", timeout=60)


def test_cards_of_older_workers_and_damaged_ones_are_read():
    old = WorkerCard.parse("w", b'{"host": "h"}')
    assert (old.scheduler, old.allocation_as_json()) == (None, {})
    odd = WorkerCard.parse(
        "w", b'{"scheduler": "slurm", "scheduler_job": [1], "restarts": "x", "allocation_ends": 1e300}'
    )
    assert odd.allocation_as_json() == {
        "scheduler": "slurm", "scheduler_job": None, "node": None, "restarts": None,
        "allocation_ends_at": None,
    }  # fmt: skip


# --time-limit auto


def test_a_worker_ends_before_its_allocation(fleet, campaign, tmp_path):
    squeue = fake_squeue(tmp_path, "echo 00:04")
    worker = fleet.worker("--campaign", campaign, "--time-limit", "auto", **SLURM, **squeue)
    assert worker.wait(60) == 0
    # What is left is of the moment before squeue was asked.
    assert re.search("--time-limit auto: the allocation ends in [0-4] s", fleet.output_of(worker))
    assert re.search(r"the time limit of [0-9.]+ s is near", fleet.output_of(worker))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo gone >&2; exit 1", "squeue failed with status 1: gone"), ("", "squeue knows of no such job"),
        ("echo UNLIMITED", "its allocation has no end (UNLIMITED)"),
    ],
)  # fmt: skip
def test_a_worker_that_does_not_know_its_end_has_no_time_limit(fleet, campaign, tmp_path, script, why):
    squeue = fake_squeue(tmp_path, script)
    name = f"{campaign}-w"
    worker = fleet.worker("--name", name, "--time-limit", "auto", "--campaign", campaign, **SLURM, **squeue)
    wait_until(lambda: name in told_by_workers(fleet), 60)
    (line,) = [line for line in fleet.output_of(worker).splitlines() if "--time-limit" in line]
    assert f"there is no time limit, because {why}" in line
    assert told_by_workers(fleet)[name]["allocation_ends_at"] is None
    assert end(worker, timeout_s=60) == 0


def test_outside_an_allocation_there_is_no_time_limit(fleet, campaign):
    worker = fleet.worker("--time-limit", "auto", "-n", "auto", "--campaign", campaign)
    wait_until(lambda: f"{len(os.sched_getaffinity(0))} slots for" in fleet.output_of(worker), 60)
    assert "no time limit, because this worker runs in no allocation" in fleet.output_of(worker)
    assert end(worker, timeout_s=60) == 0


@pytest.mark.long
def test_the_time_limit_holds_while_there_is_no_access_file(own_fleet):
    began = time.monotonic()
    worker = own_fleet.worker("--time-limit", "3s")
    assert worker.wait(60) == 0
    assert time.monotonic() - began > 2
    said = own_fleet.output_of(worker)
    assert "waiting for" in said
    assert "the time limit of 3 s is near, and no access file" in said


# Cores and threads

# On a busy machine a worker takes long to start.
unserved = pytest.mark.filterwarnings("ignore:.* nobody serves it")


@unserved
def test_two_workers_on_a_shared_node_do_not_take_the_same_cores(fleet, campaign):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    shared = SLURM | {"SLURM_CPUS_ON_NODE": "1"}
    for _ in range(2):
        refused = fleet.worker("--cores-per-slot", "1", "--campaign", campaign, **shared)
        assert refused.wait(60) == 2
        (line,) = fleet.output_of(refused).splitlines()
        assert line.startswith(f"queue-eval: job 70_4 has 1 of the {len(cores)} cores that this worker may")
    with fleet.driver(campaign, TELL) as driver:
        for task in (0, 1):
            step = {
                "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": str(task),
                "SLURM_CPU_BIND_TYPE": "mask_cpu:",
                "SLURM_CPU_BIND_LIST": ",".join(hex(1 << core) for core in cores[:2]),
            }  # fmt: skip
            fleet.worker("--cores-per-slot", "1", "--campaign", campaign, **(shared | step))
        gate = fleet.folder / "gate"
        started = [fleet.folder / f"started-{i}" for i in range(2)]
        driver.submit([{"gate": str(gate), "started": str(path)} for path in started])
        wait_until(lambda: all(path.exists() for path in started), 60)
        gate.touch()
        jobs = driver.gather("ALL", timeout=60)
        assert sorted(job.result["cores"] for job in jobs) == [[core] for core in cores[:2]]


@unserved
@pytest.mark.parametrize("method", ["thread", "process", "subprocess"])
def test_libraries_use_the_cores_of_one_slot(fleet, campaign, method):
    with fleet.driver(campaign, TELL, method=method) as driver:
        driver.submit([{}])
        fleet.worker("--campaign", campaign, slots=2)
        limit = str(max(1, len(os.sched_getaffinity(0)) // 2))
        assert driver.gather("ALL", timeout=60)[0].result["threads"] == limit


@unserved
@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({}, str(len(os.sched_getaffinity(0)))), (SLURM | {"SLURM_CPUS_ON_NODE": "1"}, "1"),
        ({"OMP_NUM_THREADS": "7"}, "7"),
    ],
    ids=["all cores", "the share of the allocation", "what the user has set"],
)  # fmt: skip
def test_where_the_limit_of_libraries_comes_from(fleet, campaign, environment, limit):
    with fleet.driver(campaign, TELL) as driver:
        driver.submit([{}])
        fleet.worker("--campaign", campaign, **environment)
        assert driver.gather("ALL", timeout=60)[0].result["threads"] == limit


def test_a_forwarder_is_left_alone(fleet, campaign):
    """Where the attempts run that it forwards there may be other cores."""
    with fleet.driver(campaign, method="ray", address="127.0.0.1:1", num_workers=1) as driver:
        driver.submit([fleet.config(1)])
        worker = fleet.worker("--campaign", campaign, slots=2)

        def environment_of_forwarder() -> dict[str, str] | None:
            # It ends again and again, for there is no Ray.
            children = psutil.Process(worker.pid).children()
            forwarders = (child for child in children if "ray_backend.py" in " ".join(command_line(child)))
            return next(filter(None, map(environment_of, forwarders)), None)

        assert not {*THREAD_LIMITS} & wait_until(environment_of_forwarder, 60).keys()
        driver.cancel()


@unserved
def test_libraries_in_local_workers_do_too(own_fleet, campaign):
    usable = len(os.sched_getaffinity(0))
    with own_fleet.driver(campaign, TELL, local_workers=True, num_workers=usable) as driver:
        driver.submit([{}] * usable)
        assert {job.result["threads"] for job in driver.gather("ALL", timeout=60)} == {"1"}


def test_a_worker_that_is_ended_while_it_asks_leaves_no_squeue(fleet, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    squeue = fake_squeue(tmp_path, f'echo $$ > "$0.pid"; exec cat {gate}')
    worker = fleet.worker("--time-limit", "auto", **SLURM, **squeue)
    pid_file = tmp_path / "bin" / "squeue.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), 60)
    pid = int(pid_file.read_text())
    assert is_running(pid)
    end(worker, timeout_s=60)
    try:
        wait_until(lambda: not is_running(pid))
    finally:
        if is_running(pid):
            os.kill(pid, 9)
