"""Workers of one campaign that do not share the folder of its checkpoints: each node has its own disk."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support import running_jobs
from tests.support.cli import cli_here, document
from tests.support.waiting import wait_until

PRIVATE = 'mount -t tmpfs none "$0" && exec "$@"'


@pytest.fixture
def own_disk(fleet):
    """The words that give a worker another file system at `fleet.folder / "checkpoints"`."""
    folder = fleet.folder / "checkpoints"
    folder.mkdir()
    words = ("unshare", "--mount", "sh", "-c", PRIVATE, str(folder))
    try:
        allowed = subprocess.run([*words, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("namespaces of mounts are not allowed here")
    return words


@pytest.fixture
def driver(fleet, campaign, own_disk):
    """Job 1 has saved four steps where most workers see them, and its worker died."""
    with fleet.driver(campaign, running_jobs.train, checkpoints=fleet.folder / "checkpoints") as driver:
        driver.submit([training(fleet, steps=6, until=3)])
        first = fleet.worker("--campaign", campaign, "--name", "first")
        queue = fleet.queue(campaign)
        wait_until(lambda: (queue.checkpoints_of([1])[0] or "").startswith("1 4 "))
        first.kill()
        first.wait()
        assert queue.reclaim(grace_ms=0, worker="first").ids == [1]
        yield driver


def training(fleet, **more):
    return {"log": str(fleet.log), "gate": str(fleet.folder / "gate"), **more}


def told(fleet, job=1):
    """(what, step) of what the attempts of a job have written."""
    lines = [json.loads(line) for line in fleet.log.read_text().splitlines()] if fleet.log.exists() else []
    return [(each["did"], each.get("step", each.get("start"))) for each in lines if each["job"] == job]


def test_a_worker_that_does_not_see_it_leaves_the_job_to_another(fleet, campaign, driver, own_disk):
    driver.submit([training(fleet, steps=1, until=0)])
    fleet.worker("--campaign", campaign, within=own_disk)
    wait_until(lambda: ("saved", 0) in told(fleet, job=2))
    assert document(cli_here("job", campaign, 1, "--json", home=fleet.home))["passed_over_since"] is not None
    fleet.worker("--campaign", campaign)
    wait_until(lambda: ("begun", 4) in told(fleet))
    fleet.open_gate()
    assert sorted(job.result for job in driver.gather("ALL", timeout=60)) == [0, 4]


def test_it_runs_it_from_the_beginning_where_nothing_else_waits(fleet, campaign, driver, own_disk):
    alone = fleet.worker("--campaign", campaign, within=own_disk)
    (job,) = driver.gather("ALL", timeout=60)
    assert (job.result, job.attempts) == (0, 2)
    assert [step for did, step in told(fleet) if did == "begun"] == [0, 0]
    sentence = f"job 1 of {campaign} has a checkpoint in a folder that this worker does not see"
    assert fleet.output_of(alone).count(sentence) == 1
