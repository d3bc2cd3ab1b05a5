"""Real workers leave campaigns that are over, and hear at once when one of them goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.resting import all_resting, lay_to_rest
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import WORKER_ACCESS_FILE, find_access
from queue_eval.transport.link import Link
from queue_eval.transport.wire import Wire
from tests.support.fault_fleet import Fleet, check_all_recorded, end
from tests.support.waiting import wait_until

AT_ONCE_S = 5
"""Far sooner than the next heartbeat, which would see it as well."""


@pytest.fixture
def link(own_fleet: Fleet) -> Iterator[Link]:
    start_server(own_fleet.home, keep=True)
    access = find_access(None, own_fleet.home)
    assert access is not None
    link = Link(access, name="test")
    yield link
    link.close()


def start_worker(
    fleet: Fleet, *arguments: str, lease: str = "2s", after_s: float = 0.5
) -> subprocess.Popen[str]:
    command = ["worker", "-n", "1", "--lease", lease, "--home", str(fleet.home), *arguments]
    with (fleet.folder / f"worker-{len(fleet.started)}.log").open("w") as log:
        return fleet._popen(
            [sys.executable, "-P", "-m", "tests.support.quick_rest", *command], log, log,
            {"REST_AFTER_S": str(after_s)}, fleet.folder,
        )  # fmt: skip


def wait_resting(link: Link, *campaigns: str) -> None:
    wait_until(lambda: set(all_resting(link)) == set(campaigns), timeout_s=20)


def attending(fleet: Fleet, campaign: str) -> list[str]:
    return [one.worker for one in fleet.queue(campaign).snapshot().workers]


def test_workers_leave_what_is_over_and_hear_at_once_of_new_jobs(own_fleet, link):
    fleet = own_fleet
    with fleet.driver("a") as driver:
        for name in ("one", "two"):
            start_worker(fleet, "--name", name, lease="30s")
        driver.submit([fleet.config(x) for x in range(4)])
        assert len(driver.gather("ALL", timeout=30)) == 4
        # A beat comes every 10 s here: let it come sooner.
        wait_until(lambda: beat(link) and all_resting(link) == ["a"] and not attending(fleet, "a"))
        driver.submit([fleet.config(9)])
        assert [job.result for job in driver.gather("ALL", timeout=AT_ONCE_S)] == [9]
        assert all_resting(link) == []
        assert not link.client.hexists(keys.Keys("a").meta, "resting")


def beat(link: Link) -> bool:
    """Have all workers beat now."""
    link.client.xadd(keys.NOTICES, {"what": "look"})
    return True


@pytest.mark.long
def test_what_rests_is_woken_by_a_retry_and_by_an_opening(own_fleet, link):
    fleet = own_fleet
    start_worker(fleet, lease="1s")
    with fleet.driver("a", max_attempts=1) as driver:
        driver.submit([fleet.config("x", **{"raise": "wrong"})])
        driver.gather("ALL", timeout=30)
    wait_resting(link, "a")
    wait_until(lambda: "until jobs are added" in fleet.cli("status", "a").stdout)
    assert fleet.cli("retry", "a", "1").returncode == 0
    wait_until(lambda: fleet.begun() == {1: 2})
    wait_resting(link, "a")
    with fleet.driver("a") as driver:
        wait_until(lambda: all_resting(link) == [])
        driver.submit([fleet.config(7)])
        assert driver.gather("ALL", timeout=20)[-1].result == 7


def test_a_campaign_of_an_earlier_build_never_rests(own_fleet, link):
    """Its driver would wake nobody."""
    fleet = own_fleet
    start_worker(fleet, lease="1s")
    for name in ("old", "new"):
        with fleet.driver(name) as driver:
            if name == "old":
                link.client.hincrby(keys.Keys("old").meta, "revision", 1)  # as its opening does
            driver.submit([fleet.config(1)])
            driver.gather("ALL", timeout=30)
    wait_resting(link, "new")
    assert len(attending(fleet, "old")) == 1


def test_an_earlier_build_that_adds_jobs_to_what_rests(own_fleet, link):
    """It knows nothing of rest: its opening is a notice, by which workers look again."""
    fleet = own_fleet
    start_worker(fleet, lease="30s")
    with fleet.driver("a") as driver:
        wait_until(lambda: beat(link) and all_resting(link) == ["a"], timeout_s=20)
        link.client.hincrby(keys.Keys("a").meta, "revision", 1)
        link.client.xadd(keys.NOTICES, {"what": "open", "campaign": "a"})
        wait_until(lambda: all_resting(link) == [])
        wait_until(lambda: len(attending(fleet, "a")) == 1)
        assert driver.jobs == []


def test_who_laid_it_to_rest_died_on_the_way(own_fleet, link):
    """Jobs were added in between: a worker that starts puts it back, and so does the waiting driver."""
    fleet = own_fleet
    with fleet.driver("a") as driver:
        driver.submit([fleet.config(1)])
        link.client.zadd(keys.RESTING, {"a": 1})
        start_worker(fleet)
        wait_until(lambda: all_resting(link) == [])
        assert len(driver.gather("ALL", timeout=20)) == 1
        link.client.zadd(keys.RESTING, {"a": 1})
        driver.submit([fleet.config(2)])
        assert len(driver.gather("ALL", timeout=20)) == 1


def test_a_campaign_goes_on_while_it_is_laid_to_rest(own_fleet, link):
    fleet = own_fleet
    with fleet.driver("a") as driver:
        driver.submit([fleet.config(1)])
        assert lay_to_rest(link, ["a", "gone"]) == []
        assert all_resting(link) == []


def test_a_purged_campaign_rests_no_more(own_fleet, link):
    fleet = own_fleet
    start_worker(fleet, lease="1s")
    fleet.driver("a").close()
    wait_resting(link, "a")
    assert fleet.cli("purge", "a", "--yes").returncode == 0
    assert all_resting(link) == []


def test_the_entry_in_the_register_is_put_back(own_fleet, link):
    """A failover of one node of a cluster may undo it alone, and break no connection to the others."""
    fleet = own_fleet
    with fleet.driver("a") as driver:
        driver.submit([fleet.config(1)])
        link.client.zrem(keys.CAMPAIGNS, "a")
        start_worker(fleet)
        assert len(driver.gather("ALL", timeout=30)) == 1


def test_a_worker_of_some_campaigns_stays_with_them(own_fleet, link):
    fleet = own_fleet
    start_worker(fleet, "--campaign", "a", "--name", "named", lease="1s")
    start_worker(fleet, "--name", "all", lease="1s")
    with fleet.driver("a") as driver:
        wait_resting(link, "a")
        wait_until(lambda: attending(fleet, "a") == ["named"])
        driver.submit([fleet.config(1)])
        assert len(driver.gather("ALL", timeout=AT_ONCE_S)) == 1


def test_a_server_that_lets_no_worker_know_what_rests(own_home, tmp_path):
    """Its users were made by an earlier build: all goes on as it did there."""
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    record = ServerHome(own_home).read()
    whole = ("{*", "workers", "worker:*", "machine:*", "drain", "notices")
    patterns = [*(f"~qe:{name}" for name in whole), "%R~qe:campaigns"]
    with Wire(record.socket, record.password) as wire:
        wire.call("ACL", "SETUSER", "worker", "resetkeys", *patterns, "-zdiff")
    fleet = Fleet(own_home, tmp_path)
    try:
        worker = start_worker(fleet, "--access", str(own_home / WORKER_ACCESS_FILE), lease="1s")
        with fleet.driver("a") as driver:
            driver.submit([fleet.config(1)])
            assert len(driver.gather("ALL", timeout=30)) == 1
            wait_until(lambda: len(attending(fleet, "a")) == 1)
        assert end(worker) == 0
        assert "WARNING" not in fleet.output_of(worker)
        assert "ERROR" not in fleet.output_of(worker)
    finally:
        fleet.close()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_campaigns_rest_and_wake_all_the_time_while_workers_are_killed(own_fleet, link):
    """They are laid to rest whenever nothing is open: between any two jobs, and while one is added."""
    fleet = own_fleet
    workers = [start_worker(fleet, lease="1s", after_s=0.0) for _ in range(3)]
    stopped = threading.Event()

    def keep_beating() -> None:
        while not stopped.wait(0.02):
            beat(link)

    beating = threading.Thread(target=keep_beating)
    beating.start()
    try:
        with fleet.driver("a", max_losses=1000) as first, fleet.driver("b", max_losses=1000) as second:
            for number in range(60):
                for driver in (first, second):
                    driver.submit([fleet.config(number)])
                if number % 10 == 5:
                    end(workers[number % 3], signal.SIGKILL)
                    workers[number % 3] = start_worker(fleet, lease="1s", after_s=0.0)
                for driver in (first, second):
                    assert [job.result for job in driver.gather("ALL", timeout=30)] == [number]
    finally:
        stopped.set()
        beating.join()
    for name in ("a", "b"):
        check_all_recorded(fleet.queue(name), 60)
    said = [about[b"what"] for _, about in link.client.xrange(keys.NOTICES)]
    assert said.count(b"wake") >= 10, "they have hardly ever rested"
