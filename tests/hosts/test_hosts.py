"""Networks that break, servers that move and processes that die, on several hosts.

Each test ends with all invariants checked on the server: `Site.check_recorded`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from queue_eval.machine import machine_id
from tests.support.hosts_site import COMMAND
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long, pytest.mark.timeout(300)]

JOBS = 60
BUSY = {"sleep_s": 0.1}


def test_the_hosts_are_hosts(site):
    """Nothing here would be proved by hosts that see each other's processes."""
    script = "import queue_eval.machine as m; print(m.machine_id())"
    found = {host.name: host.check(COMMAND[0], "-c", script).strip() for host in site.network.hosts.values()}
    assert len({machine_id(), *found.values()}) == len(found) + 1
    assert site.driver.check("hostname") == "driver\n"
    mine = site.driver.check("sh", "-c", "ls -d /proc/[0-9]*").split()
    assert len(mine) < 5


@pytest.mark.parametrize("site", [True, False], ids=["TLS", "plain"], indirect=True)
def test_three_hosts_work_for_a_driver_on_a_fourth(site, campaign):
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY))
    site.check_recorded(campaign, JOBS, driver)
    by_host = Counter(host for *_, host in site.results(campaign, driver))
    assert by_host.keys() == {host.name for host in site.workers}
    assert Counter(hosts[0] for hosts in site.executions().values()) == by_host
    assert {len(hosts) for hosts in site.executions().values()} == {1}


def test_a_host_is_cut_off_past_its_lease_and_comes_back(site, campaign):
    lost, *others = site.workers
    site.start_server()
    late = site.start_worker(lost, slots=2)
    site.wait_alive(lost)
    driver = site.start_driver(campaign, site.gated(6))
    mine = site.wait_begun(lost, 2)
    lost.cut()
    replacements = [site.start_worker(host) for host in others]
    site.open_gate(*others)
    site.wait_succeeded(campaign, at_least=6)
    assert late.is_running
    assert all(site.executions()[job][0] == lost.name and len(site.executions()[job]) == 2 for job in mine)
    # Its results come now, when all are recorded.
    site.open_gate(lost)
    wait_until(lambda: sum(lost.name in hosts for hosts in site.executions("end").values()) == len(mine))
    lost.mend()
    site.wait_alive(*site.workers)
    site.check_recorded(campaign, 6, driver)
    assert lost.name not in {host for *_, host in site.results(campaign, driver)}
    # And it works again: whoever settles and leases in one call has delivered what it had.
    for process in replacements:
        assert process.end() == 0
    again = site.start_driver(f"{campaign}-again", site.configs(3))
    assert {host for *_, host in site.results(f"{campaign}-again", again)} == {lost.name}
    site.check_recorded(campaign, 6, driver)


def test_the_first_result_wins_also_when_it_is_the_late_one(site, campaign):
    lost, other, _ = site.workers
    site.start_server()
    site.start_worker(lost)
    site.wait_alive(lost)
    driver = site.start_driver(campaign, site.gated(1))
    site.wait_begun(lost)
    lost.cut()
    site.start_worker(other)
    site.wait_begun(other)
    site.open_gate(lost)
    wait_until(lambda: site.executions("end")[1] == [lost.name])
    lost.mend()
    site.wait_succeeded(campaign, 1)
    site.open_gate(other)
    site.check_recorded(campaign, 1, driver)
    assert [host for *_, host in site.results(campaign, driver)] == [lost.name]


@pytest.mark.parametrize("share", [1.0, 0.25], ids=["all", "a quarter"])
def test_packets_of_a_host_are_dropped_for_seconds(site, campaign, share):
    noisy = site.workers[0]
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.configs(JOBS, sleep_s=0.3))
    site.wait_begun(noisy)
    noisy.drop(share)
    before = len(site.executions())
    wait_until(lambda: len(site.executions()) >= min(before + 20, JOBS), 60)
    assert noisy.dropped()
    noisy.drop(0)
    site.wait_alive(*site.workers)
    site.check_recorded(campaign, JOBS, driver)


def test_packets_of_the_server_are_lost_at_random(site, campaign):
    """Of every connection, both ways."""
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    site.wait_alive(*site.workers)
    site.server.drop(0.1)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY))
    site.wait_succeeded(campaign, JOBS)
    assert site.server.dropped()
    site.server.drop(0)
    site.check_recorded(campaign, JOBS, driver)


def test_the_driver_is_cut_off_and_comes_back(site, campaign):
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY))
    site.wait_begun(site.workers[0])
    wait_until(lambda: "submitted" in driver.output, 60)
    site.driver.cut()
    site.wait_succeeded(campaign, JOBS)
    assert driver.is_running
    site.driver.mend()
    site.check_recorded(campaign, JOBS, driver)


def test_everything_is_killed_once(site, campaign):
    """kill -9 of a worker, the driver and the server, one after the other, in the middle of the work."""
    site.start_server()
    workers = [site.start_worker(host) for host in site.workers]
    site.wait_alive(*site.workers)
    configs = site.configs(2 * JOBS, **BUSY)
    driver = site.start_driver(campaign, configs)
    site.wait_succeeded(campaign, 10)
    workers[0].kill()
    site.wait_succeeded(campaign, 20)
    driver.kill()
    site.wait_succeeded(campaign, 30)
    site.start_worker(site.workers[0])
    os.kill(site.server_pid, signal.SIGKILL)
    site.start_server()
    driver = site.start_driver(campaign, configs)
    site.check_recorded(campaign, 2 * JOBS, driver)
    assert sum(map(len, site.executions().values())) <= 2 * JOBS + 3


def test_a_host_loses_its_power(site, campaign):
    """All its processes are gone and its peers hear nothing: only its lease tells."""
    dead, *others = site.workers
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.gated(6))
    site.wait_begun(dead)
    dead.power_off()
    site.open_gate(*others)
    site.check_recorded(campaign, 6, driver)
    site.wait_alive(*others)


def test_the_server_is_cut_off_for_longer_than_a_lease(site, campaign):
    """No worker is to blame: what ran goes on, and counts."""
    # After the cut each has one lease to be heard of again, and TCP alone may take half of 10 s for that.
    lease_s = 12
    site.start_server()
    for host in site.workers:
        site.start_worker(host, lease_s=lease_s)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.gated(3))
    for host in site.workers:
        site.wait_begun(host)
    queue = site.queue(campaign)
    site.server.cut()

    def all_expired() -> bool:
        seen = queue.snapshot()
        return all(worker.expiry_ms < seen.now_ms for worker in seen.workers)

    wait_until(all_expired, 2 * lease_s)
    site.open_gate(*site.workers)
    wait_until(lambda: len(site.executions("end")) == 3)
    site.server.mend()
    site.check_recorded(campaign, 3, driver)
    assert {len(hosts) for hosts in site.executions().values()} == {1}


def test_the_address_of_the_server_moves(site, campaign):
    """It is stopped and started on another host of the shared folder, whose access file then says so."""
    second = site.network.host("server2")
    site.start_server()
    for host in site.workers:
        site.start_worker(host, home=site.home)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY), home=site.home)
    site.wait_succeeded(campaign, 10)
    site.stop_server()
    site.start_server(second)
    site.check_recorded(campaign, JOBS, driver)
    site.wait_alive(*site.workers)
    assert {len(hosts) for hosts in site.executions().values()} == {1}


def test_copies_of_the_access_file_are_replaced_when_the_server_moves(site, campaign):
    """Without a shared folder."""
    second = site.network.host("server2")
    site.start_server()
    for host in site.workers:
        site.start_worker(host)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY))
    site.wait_succeeded(campaign, 10)
    site.stop_server()
    site.start_server(second)
    for host in (*site.workers, site.driver):
        site.give_access(host)
    site.check_recorded(campaign, JOBS, driver)
    site.wait_alive(*site.workers)


def test_the_host_of_the_server_dies(site, campaign):
    """Without a word: connections to its address find nobody. It is started elsewhere, on the same data."""
    second = site.network.host("server2")
    site.start_server()
    for host in site.workers:
        site.start_worker(host, home=site.home)
    site.wait_alive(*site.workers)
    driver = site.start_driver(campaign, site.configs(JOBS, **BUSY), home=site.home)
    site.wait_succeeded(campaign, 10)
    site.server.power_off()
    site.start_server(second)
    site.check_recorded(campaign, JOBS, driver)
