"""A worker as the first process of a container: here, of a namespace of process ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.fault_fleet import ROOT, wait_state
from tests.support.waiting import wait_until

ORPHANS = 50
PATIENCE_S = 60
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def first_process(fleet, campaign):
    """Starts a worker as process 1: its process as this namespace sees it, and the one that waits for it."""
    if sys.platform != "linux" or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("namespaces of process ids are not allowed here")
    started = []

    def start():
        command = [*NAMESPACE, sys.executable, "-P", "-m", "queue_eval", "worker", "--home", str(fleet.home)]
        log = (fleet.folder / "first.log").open("w")
        with log:
            outer = subprocess.Popen(
                [*command, "--campaign", campaign], cwd=fleet.folder, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        started.append(outer)
        (first,) = wait_until(lambda: psutil.Process(outer.pid).children())
        return first, outer

    yield start
    for outer in started:
        outer.kill()  # and with it the namespace: --kill-child
        outer.wait()


def leave_orphans(config):
    """Start processes that end after their parent, as a script does that goes to the background."""
    for _ in range(config["orphans"]):
        subprocess.run(["sh", "-c", "sleep 0.01 & echo $$ > /dev/null"], check=True)
    return config["x"]


def zombies(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for each in process.children(recursive=True):
        try:
            if each.status() == psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def test_what_user_code_leaves_behind_is_reaped(fleet, campaign, first_process):
    with fleet.driver(campaign, "tests.integration.test_first_process:leave_orphans") as driver:
        driver.submit([{"x": 7, "orphans": ORPHANS}])
        first, outer = first_process()
        (job,) = driver.gather("ALL", timeout=PATIENCE_S)
        assert job.result == 7
        wait_until(lambda: not zombies(first), PATIENCE_S)
        first.send_signal(signal.SIGTERM)
        assert outer.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_the_signals_reach_the_worker(fleet, campaign, first_process, number):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2)])
        first, outer = first_process()
        fleet.wait_begun(1)
        first.send_signal(number)
        wait_until(lambda: "draining" in (fleet.folder / "first.log").read_text(), PATIENCE_S)
        fleet.open_gate()
        assert outer.wait(PATIENCE_S) == 0
        assert driver.gather("BATCH", 1, timeout=PATIENCE_S)[0].result == 1
        wait_state(fleet.queue(campaign), "pending", 1)


def test_a_worker_that_dies_ends_the_first_process(fleet, campaign, first_process):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        first, outer = first_process()
        fleet.wait_begun(1)
        (worker,) = first.children()
        worker.kill()
        assert outer.wait(PATIENCE_S) == 128 + signal.SIGKILL
        fleet.open_gate()
