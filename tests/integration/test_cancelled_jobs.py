"""What is kept of a job that was cancelled while it ran."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.cli import cli_here
from tests.support.waiting import wait_until


def chatter(config):
    """Prints, and goes on for ever."""
    print("half of it is done")
    Path(config["started"]).touch()
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("method", ["process", "subprocess"])
def test_its_output_and_its_beginning(fleet, campaign, tmp_path, method):
    started = tmp_path / "started"
    with fleet.driver(campaign, chatter, method) as driver:
        (job,) = driver.submit([{"started": str(started)}])
        fleet.worker("--campaign", campaign, lease="3s")
        wait_until(started.exists, 60)
        pause_until = time.monotonic() + 0.3
        wait_until(lambda: time.monotonic() > pause_until)
        assert driver.cancel([job]) == 1
        driver.gather("ALL", timeout=60)
    assert job.state == "cancelled"
    assert job.submitted_at <= job.started_at < job.finished_at
    assert (job.finished_at - job.started_at).total_seconds() >= 0.3

    def shown():
        return json.loads(cli_here("job", campaign, job.id, "--json", home=fleet.home).stdout)

    wait_until(lambda: shown()["output"] == "half of it is done\n", 30)
    assert shown()["started_at"] is not None
    assert shown()["state"] == "cancelled"


def test_a_job_that_waited_has_neither(fleet, campaign):
    with fleet.driver(campaign, chatter) as driver:
        (job,) = driver.submit([{"started": "never"}])
        driver.cancel([job])
        driver.gather("ALL", timeout=60)
    assert (job.state, job.started_at) == ("cancelled", None)
