"""The server's clock is put right while a campaign runs: it was an hour ahead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.campaign.registry import live_workers
from queue_eval.chaos.clock import ServerClock
from queue_eval.server.lifecycle import server_state
from tests.support.fault_fleet import ROOT, Fleet, check_all_recorded, wait_registered
from tests.support.waiting import wait_until

HOUR_S = 3600


@pytest.fixture
def clock(tmp_path: Path) -> ServerClock:
    pytest.importorskip("libfaketime", reason="libfaketime is not there for this system")
    return ServerClock(tmp_path, ahead_s=HOUR_S)


@pytest.fixture
def fleet(own_home: Path, tmp_path: Path, clock: ServerClock) -> Iterator[Fleet]:
    environment = os.environ | clock.environment | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "queue_eval", "server", "start", "--home", str(own_home)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30)
    fleet = Fleet(own_home, tmp_path)
    yield fleet
    fleet.close()


@pytest.mark.long
def test_an_hour_taken_back_holds_nothing_up(fleet: Fleet, campaign: str, clock: ServerClock) -> None:
    with fleet.driver(campaign, retry_delay=1.0, max_attempts=2) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2, "never")])
        link = fleet.queue(campaign).link
        seconds, _ = link.client.time()
        assert abs(seconds - time.time() - HOUR_S) < 60, "the server's clock is off"
        alive = fleet.worker("--name", "alive")
        wait_registered(fleet, "alive")
        fleet.wait_begun(1)
        frozen = fleet.worker("--name", "frozen")
        fleet.wait_begun(2)
        frozen.send_signal(signal.SIGSTOP)
        clock.set_back(HOUR_S)
        # What the frozen one holds comes back, and goes to the one that lives, which has kept its own.
        fleet.open_gate()
        wait_until(lambda: fleet.begun() == {1: 1, 2: 2}, 30)
        fleet.open_gate("never")
        driver.submit([fleet.config(3)])
        assert {job.id: job.attempts for job in driver.gather("ALL", timeout=30)} == {1: 1, 2: 2, 3: 1}
        # The register and the cards do not show for an hour who is gone.
        wait_until(lambda: [one.card.name for one in live_workers(link)] == ["alive"], 30)
        assert alive.poll() is None
        frozen.kill()
    check_all_recorded(fleet.queue(campaign), 3)
    assert server_state(fleet.home).state == "running"
