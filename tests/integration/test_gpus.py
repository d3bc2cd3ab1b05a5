"""Slots that own real NVIDIA GPUs; skipped where there are none."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import pytest

from tests.support.waiting import wait_until
from workers.host_use import gpu_use

SEE = "tests.support.gpu_functions:see"


def _listed() -> list[str]:
    """The lines of ``nvidia-smi -L``, without what tells of private persons' machines."""
    if shutil.which("nvidia-smi") is None:
        return []
    reply = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    return reply.stdout.splitlines() if reply.returncode == 0 else []


LISTED = _listed()
GPUS = [match[1] for line in LISTED if (match := re.search(r"^GPU \d+:.*\(UUID: (GPU-[\w-]+)\)", line))]
MIGS = [match[1] for line in LISTED if (match := re.search(r"\(UUID: (MIG-[\w/-]+)\)", line))]

pytestmark = pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU: nvidia-smi lists none")


def seen_by(fleet, campaign, *arguments, slots=1, jobs=1, **environment):
    """What jobs see of the GPUs, all at the same time."""
    with fleet.driver(campaign, SEE) as driver:
        worker = fleet.worker("--campaign", campaign, *arguments, slots=slots, **environment)
        driver.submit([fleet.gated(x) | {"started": str(fleet.folder / f"started-{x}")} for x in range(jobs)])
        wait_until(lambda: len(list(fleet.folder.glob("started-*"))) == jobs, timeout_s=60)
        fleet.open_gate()
        jobs = driver.gather("ALL", timeout=100)
        assert [job.error for job in jobs] == [None] * len(jobs)
        return [job.result for job in jobs], fleet.output_of(worker)


@pytest.mark.parametrize("named", ["index", "all", "uuid"])
def test_one_slot_sees_its_gpu(fleet, campaign, named):
    wanted = {"index": "0", "all": "all", "uuid": GPUS[0]}[named]
    ((seen,), log) = seen_by(fleet, campaign, "--gpus", wanted)
    names = {"index": "0", "all": ",".join(map(str, range(len(GPUS)))), "uuid": GPUS[0]}[named]
    assert seen["visible"] == names
    assert f"slot 0 owns GPU {names.replace(',', ', ')}" in log
    if seen["cuda"] is not None:
        assert seen["cuda"] == GPUS[: len(names.split(","))], "CUDA itself sees those and no others"
    if seen["torch"] is not None:
        assert seen["torch"] == len(names.split(","))


def test_two_slots_share_one_gpu(fleet, campaign):
    seen, log = seen_by(fleet, campaign, "--gpus", "0", slots=2, jobs=2)
    assert [one["visible"] for one in seen] == ["0", "0"]
    assert len({one["pid"] for one in seen}) == 2
    assert "GPU 0 is shared by several slots" in log
    for one in seen:
        assert one["cuda"] in (None, GPUS[:1])
        assert one["torch"] in (None, 1)


def test_a_worker_keeps_to_what_it_may_use(fleet, campaign):
    """Its own CUDA_VISIBLE_DEVICES is the list from which slots are given theirs."""
    ((seen,), _) = seen_by(fleet, campaign, "--gpus", "all", CUDA_VISIBLE_DEVICES=GPUS[0])
    assert seen["visible"] == GPUS[0]
    assert seen["torch"] in (None, 1)


def test_a_worker_without_gpus_leaves_the_environment_alone(fleet, campaign):
    ((seen,), _) = seen_by(fleet, campaign)
    assert seen["visible"] is None
    assert seen["torch"] in (None, len(GPUS))


@pytest.mark.skipif(not MIGS, reason="no GPU of this machine is divided into MIG instances")
def test_mig_instances_by_their_names(fleet, campaign):
    seen, _ = seen_by(fleet, campaign, "--gpus", ",".join(MIGS[:2]), slots=len(MIGS[:2]), jobs=len(MIGS[:2]))
    assert sorted(one["visible"] for one in seen) == sorted(MIGS[:2])
    assert all(one["torch"] in (None, 1) for one in seen)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.parametrize(("per_task", "visible"), [(1, "0"), (0.5, "0"), (0, None)])
def test_what_ray_gives_its_tasks(fleet, campaign, per_task, visible):
    """With `num_gpus_per_task=0` Ray leaves CUDA_VISIBLE_DEVICES as it is in its own environment: its tasks
    see every GPU, though none is theirs."""
    with fleet.driver(
        campaign, SEE, method="ray", num_cpus=2, num_gpus=1, num_gpus_per_task=per_task
    ) as driver:
        fleet.worker("--campaign", campaign)
        driver.submit([fleet.config()])
        (job,) = driver.gather("ALL", timeout=100)
        assert job.error is None
        assert job.result["visible"] == visible
        assert job.result["torch"] in (None, len(GPUS) if visible is None else 1)


def test_how_busy_they_are_is_told():
    by_number = gpu_use([str(number) for number in range(len(GPUS))])
    assert by_number is not None
    assert gpu_use(GPUS) is not None
    assert all(0 <= (gpu.memory_used or 0) <= (gpu.memory_total or 0) for gpu in by_number)
