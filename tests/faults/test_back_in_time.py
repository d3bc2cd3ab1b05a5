"""A server that forgets its last moments: a power cut under everysec, a replica that was behind.

A power cut is made by cutting off what was appended to the log since an earlier moment. The servers run with
always, so that the log is as long as what was acknowledged.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from queue_eval.campaign.keys import CAMPAIGNS
from queue_eval.chaos.proxy import FaultProxy
from queue_eval.model.states import State
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import find_access, write_access
from tests.support.fault_fleet import Fleet, check_all_recorded, end, kill_server, wait_state
from tests.support.load import Load
from tests.support.marks import long, soak
from tests.support.networks import Node, free_ports
from tests.support.waiting import wait_until


def log_of(home: Path) -> Path:
    (file,) = home.glob("data/appendonlydir/*.incr.aof")
    return file


def size_of(home: Path) -> int:
    return log_of(home).stat().st_size


def cut_power(fleet: Fleet, size: int) -> None:
    """The server's log is as it was when it had this size."""
    kill_server(fleet)
    os.truncate(log_of(fleet.home), size)
    start_server(fleet.home, keep=True)


def test_submissions_that_were_undone_are_made_again(fleet, campaign):
    """Even when others have been given the ids meanwhile; each driver gets the results of its own."""
    with fleet.driver(campaign) as one, fleet.driver(campaign, reuse=False) as two:
        kept = one.submit([fleet.config(x) for x in range(5)])
        size = size_of(fleet.home)
        undone = one.submit([fleet.config(x) for x in range(5, 10)])
        cut_power(fleet, size)
        other = two.submit([fleet.config(x) for x in range(100, 103)])
        assert {job.id for job in other} <= {job.id for job in undone}
        fleet.worker(slots=2)
        assert sorted(job.result for job in two.gather("ALL", timeout=20)) == [100, 101, 102]
        assert sorted(job.result for job in one.gather("ALL", timeout=20)) == list(range(10))
        for job in (*kept, *undone, *other):
            assert job.result == job.config["x"]
            assert job.id == job.config["id"]
        assert {job.id for job in (*kept, *undone, *other)} == set(range(1, 14))
    assert set(fleet.begun().values()) == {1}
    check_all_recorded(fleet.queue(campaign), 13)


def test_what_is_finished_and_not_gathered_when_it_is_undone_is_gathered(fleet, campaign):
    """Each is submitted again under the id that the next one had."""
    with fleet.driver(campaign) as one, fleet.driver(campaign) as two:
        size = size_of(fleet.home)
        one.submit([fleet.config(x) for x in range(5)])
        fleet.worker(slots=2)
        queue = fleet.queue(campaign)
        wait_state(queue, State.SUCCEEDED, 5)
        first = next(one.as_completed(timeout=20))
        cut_power(fleet, size)
        two.submit([fleet.config(100)])
        jobs = [first, *one.gather("ALL", timeout=20)]
        assert sorted(job.result for job in jobs) == list(range(5))
        assert [job.result for job in two.gather("ALL", timeout=20)] == [100]
        wait_state(queue, State.SUCCEEDED, 6)
        assert sorted(job.id for job in jobs) == [2, 3, 4, 5, 6]
        assert all(job.result == job.config["x"] and job.id == job.config["id"] for job in jobs)
        assert {job.id for job in one.jobs_done} == {job.id for job in one.jobs} == {2, 3, 4, 5, 6}
        assert (one.num_gathered, one.num_outstanding) == (5, 0)
    check_all_recorded(queue, 6)


def test_a_job_that_is_not_kept_does_not_drag_another_along(fleet, campaign):
    """It was gathered, and is submitted again with the others, whose ids are given anew."""
    with fleet.driver(campaign, keep_jobs=False) as one, fleet.driver(campaign) as two:
        size = size_of(fleet.home)
        one.submit([fleet.gated(0), fleet.config(1)])
        worker = fleet.worker(slots=2)
        (first,) = itertools.islice(one.as_completed(timeout=20), 1)
        end(worker, signal.SIGKILL)
        cut_power(fleet, size)
        two.submit([fleet.config(100)])
        fleet.open_gate()
        fleet.worker(slots=2)
        (second,) = one.gather("ALL", timeout=20)
        assert [(job.id, job.result) for job in (second, first)] == [(2, 0), (3, 1)]
        assert (one.num_gathered, one.num_outstanding) == (2, 0)


def test_equal_configs_of_which_one_was_undone_are_two_jobs(fleet, campaign):
    with fleet.driver(campaign) as driver:
        size = size_of(fleet.home)
        (one,) = driver.submit([fleet.config(7)])
        cut_power(fleet, size)
        (two,) = driver.submit([fleet.config(7)])
        fleet.worker()
        assert len(driver.gather("ALL", timeout=20)) == 2
        assert {one.id, two.id} == {1, 2}
    check_all_recorded(fleet.queue(campaign), 2)


@pytest.mark.parametrize("what", ["interrupted", *long("undone once more")])
def test_what_is_submitted_again_only_in_part_is_completed(fleet, campaign, monkeypatch, what):
    """Its first part has later times than the second one, and vouches nothing for that."""
    with fleet.driver(campaign) as driver:
        size = size_of(fleet.home)
        driver.submit([fleet.config(0)])
        driver.submit([fleet.config(1)], priority=1)
        cut_power(fleet, size)
        resubmit = driver._session.recovery._resubmit
        parts = itertools.count()

        def cut_off(batch):
            if next(parts) == 1:
                if what == "interrupted":
                    raise KeyboardInterrupt
                cut_power(fleet, size)
            resubmit(batch)

        monkeypatch.setattr(driver._session.recovery, "_resubmit", cut_off)
        with pytest.raises(KeyboardInterrupt) if what == "interrupted" else nullcontext():
            driver.gather("ALL", timeout=2)
        fleet.worker()
        driver.gather("ALL", timeout=20)
        assert sorted(job.result for job in driver.jobs_done) == [0, 1]
    check_all_recorded(fleet.queue(campaign), 2)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_server_that_goes_back_twice_within_one_submission(fleet, campaign, monkeypatch, reuse):
    """What was acknowledged after the first time is gone after the second, and its id is another's."""
    with fleet.driver(campaign, reuse=reuse) as driver:
        size = size_of(fleet.home)
        (one,) = driver.submit([fleet.config(0)])
        cut_power(fleet, size)
        resubmit = driver._session.recovery._resubmit
        parts = itertools.count()

        def cut(batch):
            if next(parts) == 0:
                cut_power(fleet, size)
            resubmit(batch)

        monkeypatch.setattr(driver._session.recovery, "_resubmit", cut)
        (two,) = driver.submit([fleet.config(1)])
        fleet.worker()
        assert len(driver.gather("ALL", timeout=20)) == 2
        assert (one.result, two.result) == (0, 1)
        assert {one.id, two.id} == {1, 2}
    check_all_recorded(fleet.queue(campaign), 2)


def test_what_is_submitted_next_does_not_take_the_place_of_what_was_undone(fleet, campaign):
    """A driver that submits before it has looked."""
    with fleet.driver(campaign) as driver:
        size = size_of(fleet.home)
        driver.submit([fleet.config(x) for x in range(3)])
        cut_power(fleet, size)
        driver.submit([fleet.config(x) for x in range(3, 6)])
        fleet.worker(slots=2)
        assert sorted(job.result for job in driver.gather("ALL", timeout=20)) == list(range(6))
        assert all(job.result == job.config["x"] for job in driver.jobs_done)
    check_all_recorded(fleet.queue(campaign), 6)


def test_a_result_counts_for_no_other_job(fleet, campaign):
    """A worker runs a job that was undone, whose id and attempt are another's by now."""
    with fleet.driver(campaign) as one, fleet.driver(campaign) as two:
        size = size_of(fleet.home)
        one.submit([fleet.gated("old", "first")])
        worker = fleet.worker(slots=2, lease="2s")
        fleet.wait_begun(1)
        cut_power(fleet, size)
        (new,) = two.submit([fleet.gated("new", "second")])
        assert new.id == 1
        wait_until(lambda: fleet.begun()[1] == 2)
        fleet.open_gate("first")
        time.sleep(0.3)
        fleet.open_gate("second")
        assert [job.result for job in two.gather("ALL", timeout=20)] == ["new"]
        assert [job.result for job in one.gather("ALL", timeout=20)] == ["old"]
        assert worker.poll() is None
    check_all_recorded(fleet.queue(campaign), 2)


def test_a_long_evaluation_whose_end_was_undone_is_not_made_again(fleet, campaign):
    """Its worker remembers it, and settles it again."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(7)])
        worker = fleet.worker(slots=1, lease="2s")
        fleet.wait_begun(1)
        time.sleep(0.1)
        size = size_of(fleet.home)
        fleet.open_gate()
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [7]
        cut_power(fleet, size)
        queue = fleet.queue(campaign)
        wait_until(lambda: queue.snapshot().outstanding == 0)
        assert "settled again" in fleet.output_of(worker)
    assert fleet.begun() == {1: 1}
    check_all_recorded(queue, 1)


def test_a_script_that_is_run_again_makes_whole_what_was_undone(fleet, campaign):
    """Driver and worker have gone, too: the next life submits what is missing, with reuse."""
    worker = fleet.worker(slots=2)
    configs = [fleet.config(x) for x in range(40)]
    with fleet.driver(campaign) as driver:
        driver.submit(configs[:20])
        driver.gather("BATCH", 5, timeout=20)
        size = size_of(fleet.home)
        driver.submit(configs[20:])
        driver.gather("BATCH", 5, timeout=20)
    worker.kill()
    worker.wait()
    cut_power(fleet, size)
    fleet.worker(slots=2)
    with fleet.driver(campaign) as driver:
        driver.submit(configs)
        assert sorted(job.result for job in driver.gather("ALL", timeout=30)) == list(range(40))
    check_all_recorded(fleet.queue(campaign), 40)


def test_a_campaign_whose_registration_was_undone_is_registered_again(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1)])
        link = fleet.queue(campaign).link
        link.call(lambda client: client.zrem(CAMPAIGNS, campaign))
        kill_server(fleet)
        start_server(fleet.home, keep=True)
        fleet.worker()
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [1]


@pytest.mark.parametrize("seed", [*long(0), *soak(1, 2)])
def test_power_cuts_under_load(fleet, campaign, seed):
    with fleet.driver(campaign, max_losses=1000) as one, fleet.driver(campaign, max_losses=1000) as two:
        workers = [fleet.worker(slots=2) for _ in range(2)]
        loads = [Load(fleet, one, 300, sleep_s=0.01), Load(fleet, two, 300, sleep_s=0.01, first=1000)]
        for part in (0.1, 0.3, 0.6):
            loads[0].wait_done(part)
            size = size_of(fleet.home)
            time.sleep(0.2 + 0.2 * seed)
            cut_power(fleet, size)
        for x, load in zip((2000, 2001), loads, strict=True):
            load.check_results()
            # It may have gathered all before the last cut: what that undid is found by its next call.
            load.evaluator.submit([fleet.config(x)])
            assert [job.result for job in load.evaluator.gather("ALL", timeout=20)] == [x]
        assert all(worker.poll() is None for worker in workers)
        queue = fleet.queue(campaign)
        wait_until(lambda: queue.snapshot().outstanding == 0)
    check_all_recorded(queue, 602)


@pytest.mark.long
def test_a_replica_that_was_behind_takes_over(tmp_path, campaign):
    """Drivers and workers follow by the access file; what it had not received is made again."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    ports = free_ports(2)
    durable = ("--appendonly", "yes", "--save", "")
    primary = Node(tmp_path / "primary", ports[0], *durable)
    replica = None
    fleet = Fleet(home, tmp_path)
    try:
        with FaultProxy(("127.0.0.1", ports[0])) as line:
            wait_until(primary.answers)
            to_primary = ("--replicaof", "127.0.0.1", str(line.address[1]))
            replica = Node(tmp_path / "replica", ports[1], *to_primary, *durable)
            wait_until(replica.is_in_step)
            write_access(home, f"redis://127.0.0.1:{ports[0]}", b"k" * 32)
            with fleet.driver(campaign, max_losses=1000) as driver:
                workers = [fleet.worker(slots=2, lease="5s") for _ in range(2)]
                load = Load(fleet, driver, 400, sleep_s=0.01)
                load.wait_done(0.3)
                line.blackhole()
                before = len(load.gathered)
                wait_until(lambda: len(load.gathered) > before + 60)
                primary.kill()
                replica.client().replicaof("NO", "ONE")
                write_access(home, f"redis://127.0.0.1:{ports[1]}", b"k" * 32)
                load.check_results()
                queue = fleet.queue(campaign)
                wait_until(lambda: queue.snapshot().outstanding == 0)
                check_all_recorded(queue, 400)
                for worker in workers:
                    assert "Traceback" not in fleet.output_of(worker)
            assert find_access(None, home).url.endswith(str(ports[1]))
    finally:
        fleet.close()
        for node in (primary, replica):
            if node is not None and node.process.poll() is None:
                node.kill()
