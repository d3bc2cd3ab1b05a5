"""Stop signals to workers that have nothing to lose: before they know a server, and after all is done."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.processes import ignored
from tests.support.waiting import wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_worker_that_waits_for_its_access_file_ends_by_itself(own_fleet, number):
    worker = own_fleet.worker()
    wait_until(lambda: "waiting for" in own_fleet.output_of(worker), 60)
    worker.send_signal(number)
    assert worker.wait(60) == 0
    _, line = own_fleet.output_of(worker).splitlines()
    assert f"{number.name}: ending; there was no access file" in line


def test_a_signal_that_was_ignored_does_not_end_the_wait_for_an_access_file(own_fleet):
    with ignored(signal.SIGHUP):
        worker = own_fleet.worker()
    wait_until(lambda: "waiting for" in own_fleet.output_of(worker), 60)
    worker.send_signal(signal.SIGHUP)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert "SIGTERM: ending" in own_fleet.output_of(worker)
    assert "SIGHUP" not in own_fleet.output_of(worker)


AFTER_THE_END = """
import os, signal
from workers.signals import Signals

class Late:
    # Python deletes what modules hold after it has put its signal handlers back.
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGHUP):
        kill(pid, number)

signals = Signals()
signals.install()
late = Late()
late.itself = late  # no count of references ends it early
signals.close()
os.kill(os.getpid(), signal.SIGTERM)
print("ended", signals.wants_drain)
"""


def test_a_signal_during_the_end_of_the_interpreter_does_not_kill():
    done = subprocess.run(
        [sys.executable, "-c", AFTER_THE_END], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended False\n", "")


def test_an_idle_worker_that_is_signalled_until_it_has_gone_ends_well(fleet, campaign):
    worker = fleet.worker("--campaign", campaign, "--name", f"w-{campaign}")
    wait_until(lambda: "slots for" in fleet.output_of(worker), 60)

    def has_ended() -> bool:
        worker.send_signal(signal.SIGHUP)
        return worker.poll() is not None

    wait_until(has_ended, 60)
    assert worker.returncode == 0
    assert "has ended" in fleet.output_of(worker)
