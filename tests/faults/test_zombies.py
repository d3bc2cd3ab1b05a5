"""Workers that stand still, see another time or hear nothing for long, and come back.

A frozen worker whose job runs elsewhere meanwhile is in test_workers.py.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from queue_eval.model.states import State
from queue_eval.server.lifecycle import server_state, start_server
from tests.support.fault_fleet import Fleet, check_all_recorded, kill_server, wait_registered, wait_state
from tests.support.marks import long, soak
from tests.support.waiting import wait_until
from tests.support.wrong_clock import WrongClock

HOUR_S = 3600.0
MARGIN = timedelta(seconds=5)


def wait_for_leases(fleet: Fleet, campaign: str, count: float, lease_s: float) -> None:
    """Until the server's clock has gone on by so many leases."""
    queue = fleet.queue(campaign)
    end_ms = queue.snapshot().now_ms + count * lease_s * 1000
    wait_until(lambda: queue.snapshot().now_ms > end_ms, timeout_s=count * lease_s + 20)


# Frozen


@pytest.mark.parametrize("fails", [False, *long(True)])
def test_a_frozen_worker_comes_back_before_its_job_runs_elsewhere(fleet, campaign, fails):
    """Reclaimed, and nobody else is there: a success counts for the job that waits; a failure is dropped, and
    the job runs again."""
    more = {"raise": "too late"} if fails else {}
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1, gate=str(fleet.folder / "gate"), **more)])
        frozen = fleet.worker(lease="1s")
        fleet.wait_begun(1)
        frozen.send_signal(signal.SIGSTOP)
        queue = fleet.queue(campaign)
        try:
            wait_until(lambda: queue.reclaim(grace_ms=1000).ids == [1])
            fleet.open_gate()
            child = int(fleet.lines()[0][2])
            # Whatever the outcome, the child has reported it once it blocks on its pipe again.
            wait_until(lambda: fails or fleet.finished() == {1: 1})
            wait_until(lambda: _sleeps(child))
        finally:
            frozen.send_signal(signal.SIGCONT)
        (job,) = driver.gather("ALL", timeout=30)
        assert fleet.begun() == {1: 2 if fails else 1}
        assert (job.state, job.attempts) == (("failed", 2) if fails else ("succeeded", 1))
        # Nobody charged the late failure: the one on record is that of the second attempt.
        assert [f["attempt"] for f in queue.failures(1)] == (["1", "2"] if fails else ["1"])
        assert [f["cause"] for f in queue.failures(1)] == (["lost", "error"] if fails else ["lost"])
    check_all_recorded(queue, 1, State.FAILED if fails else State.SUCCEEDED)


def _sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as wait:  # noqa: PTH123 - read at once
        return "pipe" in wait.read() or _state(pid) == "S"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return stat.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("method", ["thread", *long("process"), *soak("subprocess")])
def test_the_interpreter_lock_held_for_three_leases(fleet, campaign, method):
    """The heartbeat is another process's: nobody takes the job, though another worker asks for work."""
    lease_s = 1.0
    with fleet.driver(campaign, hog, method=method) as driver:
        holder = fleet.worker("--name", "holder", lease="1s")
        wait_registered(fleet, "holder")
        driver.submit([{"log": str(fleet.log), "hold_s": 3.3 * lease_s}])
        fleet.wait_begun(1)
        fleet.worker("--name", "other", lease="1s")
        (job,) = driver.gather("ALL", timeout=30)
        assert job.result >= 3 * lease_s, "it was held that long"
        assert (job.state, job.attempts, job.worker) == ("succeeded", 1, "holder")
        assert holder.poll() is None
    assert fleet.begun() == {1: 1}
    assert fleet.queue(campaign).failures(1) == []


def hog(config):
    """Holds the interpreter's lock in one call of C."""
    import ctypes
    import time

    from tests.support.fault_functions import note

    note(config, "start")
    before = time.monotonic()
    # PyDLL keeps the lock, which CDLL would give away.
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(config["hold_s"] * 1e6)))
    return time.monotonic() - before


# Clocks


@pytest.mark.parametrize(
    ("off_s", "method"),
    [
        (HOUR_S, "process"),
        pytest.param(-HOUR_S, "subprocess", marks=pytest.mark.long),
        *(pytest.param(HOUR_S, one, marks=pytest.mark.soak) for one in ("thread", "subprocess")),
        *(pytest.param(-HOUR_S, one, marks=pytest.mark.soak) for one in ("thread", "process")),
    ],
)
def test_a_worker_whose_clock_is_an_hour_off(fleet, campaign, tmp_path, method, off_s):
    """Its leases hold, beside a worker that would take them back; all times shown are the server's."""
    clock = WrongClock(tmp_path / "clock", off_s)
    before = datetime.now(UTC)
    with fleet.driver(campaign, told_time, method=method) as driver:
        worker = fleet.worker("--name", "off", lease="1s", **clock.environment)
        wait_registered(fleet, "off")
        driver.submit([fleet.gated(1)])
        fleet.wait_begun(1)
        fleet.worker("--name", "right", lease="1s")
        wait_registered(fleet, "right")
        wait_for_leases(fleet, campaign, 2, 1.0)
        fleet.open_gate()
        (job,) = driver.gather("ALL", timeout=30)
        after = datetime.now(UTC)
        assert clock.has_misled(worker.pid)
        assert job.result == pytest.approx(time.time() + off_s, abs=60), "so has the run function been"
        assert (job.state, job.attempts, job.worker) == ("succeeded", 1, "off")
        assert before - MARGIN < job.submitted_at <= job.started_at <= job.finished_at < after + MARGIN
        assert job.finished_at - job.started_at >= timedelta(seconds=1.9)
        assert 0 < job.duration <= job.elapsed_sec < 60
        row = driver.to_dataframe().iloc[0]
        assert 1.9 <= row["run_s"] < 60
        assert 0 <= row["wait_s"] < 60
    assert fleet.begun() == {1: 1}
    assert fleet.queue(campaign).failures(1) == []


def told_time(config):
    import time

    from tests.support.fault_functions import work

    work(config)
    return time.time()


@pytest.mark.parametrize("off_s", [HOUR_S, *long(-HOUR_S)])
def test_a_spool_of_a_worker_whose_clock_was_an_hour_off(fleet, campaign, tmp_path, off_s):
    """Delivered by one with the right clock: the time of its end is that of the server."""
    clock = WrongClock(tmp_path / "clock", off_s)
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker(lease="10s", **clock.environment)
        fleet.wait_begun(1)
        begun = datetime.now(UTC)
        kill_server(fleet)
        fleet.open_gate()
        wait_until(lambda: any(file.read_text().endswith("\n") for file in fleet.home.glob("spool/*.jsonl")))
        ended = datetime.now(UTC)
        worker.kill()
        worker.wait()
        start_server(fleet.home, keep=True)
        fleet.worker(lease="10s")
        (job,) = driver.gather("ALL", timeout=30)
        assert clock.has_misled(worker.pid)
        assert (job.state, job.attempts) == ("succeeded", 1)
        # As it runs before it is begun: half a second.
        assert begun - timedelta(seconds=1) < job.finished_at < ended + timedelta(seconds=1)
        assert job.submitted_at <= job.started_at <= job.finished_at
    assert fleet.begun() == {1: 1}


@pytest.mark.parametrize("off_s", [HOUR_S, *long(-HOUR_S)])
def test_a_driver_whose_clock_is_an_hour_off(fleet, campaign, tmp_path, off_s):
    """Its patience, delays and the times that it shows are not those of its clock."""
    clock = WrongClock(tmp_path / "clock", off_s)
    script = tmp_path / "drive.py"
    script.write_text(DRIVER)
    fleet.worker(lease="1s")
    before = datetime.now(UTC)
    command = [str(fleet.home), campaign, str(fleet.log)]
    driver = fleet.script(script, *command, **clock.environment)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, output
    assert clock.has_misled(driver.pid)
    *times, duration, elapsed = map(float, output.split())
    submitted, started, finished = (datetime.fromtimestamp(seconds, UTC) for seconds in times)
    assert before - MARGIN < submitted < started <= finished < datetime.now(UTC) + MARGIN
    assert started - submitted >= timedelta(seconds=0.9), "the delay"
    assert 0.9 <= duration <= elapsed < 60
    assert fleet.begun() == {1: 1}


DRIVER = """\
import sys
from queue_eval import Evaluator

home, campaign, log = sys.argv[1:]
keywords = {"home": home, "campaign": campaign, "local_workers": False}
with Evaluator.create("tests.support.fault_functions:work", "process", keywords) as driver:
    driver.submit([{"x": 1, "log": log}], delay=1.0)
    assert driver.gather("ALL", timeout=0.2) == []
    (job,) = driver.gather("ALL", timeout=30)
    assert job.result == 1
    for at in (job.submitted_at, job.started_at, job.finished_at):
        print(at.timestamp())
    print(job.duration, job.elapsed_sec)
"""


# The server away


def be_away(fleet: Fleet, campaign: str, away_s: float) -> None:
    """Jobs run, end and wait while the server is away for many leases; each is executed once."""
    count = 12
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(4)] + [fleet.gated(x, "later") for x in range(4, 8)])
        driver.submit([fleet.config(x) for x in range(8, count)])
        for name in ("one", "two", "three", "four"):
            fleet.worker("--name", name, slots=2, lease="2s")
        fleet.wait_begun(*range(1, 9))
        kill_server(fleet)
        # Half of what runs ends while nobody can be told, the rest afterwards.
        fleet.open_gate()
        wait_until(lambda: sum(fleet.finished().values()) == 4)
        back_at = time.monotonic() + away_s
        wait_until(lambda: time.monotonic() > back_at, timeout_s=away_s + 20)
        start_server(fleet.home, keep=True)
        queue = fleet.queue(campaign)
        # Those still running are held as before, leases after the server is back.
        wait_for_leases(fleet, campaign, 2, 2.0)
        wait_state(queue, State.RUNNING, 4)
        fleet.open_gate("later")
        assert sorted(job.result for job in driver.gather("ALL", timeout=30)) == list(range(count))
    assert fleet.begun() == dict.fromkeys(range(1, count + 1), 1), "executions == jobs"
    check_all_recorded(queue, count)
    assert [queue.failures(job) for job in range(1, count + 1)] == [[]] * count, "nobody was charged"


@pytest.mark.long
def test_a_server_away_for_many_leases_makes_nothing_run_again(fleet, campaign):
    be_away(fleet, campaign, 5)


@pytest.mark.soak
def test_a_server_away_for_a_minute_makes_nothing_run_again(fleet, campaign):
    be_away(fleet, campaign, 60)


@pytest.mark.parametrize("seconds", [4])
def test_a_frozen_server_makes_nothing_run_again(fleet, campaign, seconds):
    """It keeps its run id; that leases have run out meanwhile is nobody's death."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(x) for x in range(4)])
        for name in ("one", "two"):
            fleet.worker("--name", name, slots=2, lease="1s")
        fleet.wait_begun(1, 2, 3, 4)
        pid = server_state(fleet.home).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            thaw_at = time.monotonic() + seconds
            wait_until(lambda: time.monotonic() > thaw_at)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for_leases(fleet, campaign, 3, 1.0)
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=30)) == 4
    assert set(fleet.begun().values()) == {1}
    check_all_recorded(fleet.queue(campaign), 4)
