"""What is on disk, or held, of a campaign that is damaged: it costs nobody else anything, and is not lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from queue_eval import Evaluator
from queue_eval.model.job import Job
from queue_eval.server.lifecycle import server_state, start_server
from tests.support.fault_fleet import (
    WORK,
    Fleet,
    check_all_recorded,
    end,
    kill_server,
    stop_now,
    wait_registered,
)
from tests.support.waiting import wait_until


@pytest.fixture
def other(campaign: str) -> str:
    return f"{campaign}-other"


@contextmanager
def damaged(fleet: Fleet, campaign: str, column: str) -> Iterator[None]:
    """A key of this campaign has another type meanwhile."""
    queue = fleet.queue(campaign)
    client, key = queue.link.client, queue.keys.column(column)
    before = client.dump(key)
    client.delete(key)
    client.set(key, "garbage")
    try:
        yield
    finally:
        client.delete(key)
        if before is not None:
            client.restore(key, 0, before)


def spooled(fleet: Fleet) -> list[str]:
    return [line for file in fleet.home.glob("spool/*.jsonl") for line in file.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:worker .* has stepped aside from campaign")
def test_damage_while_jobs_are_held_in_advance(fleet, campaign, other):
    """They cannot be given back when they have waited for long; the worker goes on with the others."""
    with fleet.driver(campaign) as driver, fleet.driver(other) as healthy:
        worker = fleet.worker(lease="5s")
        queue = fleet.queue(campaign)

        def holds_some() -> bool:
            """Behind a long one; on a busy machine they may not have been short enough."""
            driver.submit([fleet.config(x) for x in range(100)])
            driver.gather("ALL", timeout=30)
            last = driver.submit([fleet.gated(0, "last"), *(fleet.config(x) for x in range(50))])
            fleet.wait_begun(last[0].id)
            if any(worker.running > 1 for worker in queue.snapshot().workers):
                return True
            fleet.open_gate("last")
            driver.gather("ALL", timeout=30)
            (fleet.folder / "last").unlink()
            return False

        wait_until(holds_some, timeout_s=60)
        with damaged(fleet, campaign, "attempts"):
            wait_until(lambda: "cannot be given back" in fleet.output_of(worker))
            healthy.submit([fleet.config(1)])
            fleet.worker("--campaign", other)
            assert len(healthy.gather("ALL", timeout=20)) == 1
            assert worker.poll() is None
            assert "Traceback" not in fleet.output_of(worker)
        fleet.open_gate("last")
        assert len(driver.gather("ALL", timeout=30)) == 51
    check_all_recorded(queue, queue.snapshot().last_id)


def test_a_spool_of_a_damaged_campaign_holds_nobody_up(fleet, campaign, other):
    with fleet.driver(campaign) as driver, fleet.driver(other) as healthy:
        driver.submit([fleet.gated(1)])
        healthy.submit([fleet.gated(2)])
        worker = fleet.worker("--name", "first", slots=2, lease="20s")
        wait_until(lambda: len(fleet.lines()) == 2)
        kill_server(fleet)
        fleet.open_gate()
        wait_until(lambda: len(spooled(fleet)) == 2)
        end(worker, signal.SIGKILL)
        start_server(fleet.home, keep=True)
        with damaged(fleet, campaign, "index"):
            # It starts, and delivers what it can.
            second = fleet.worker("--name", "first", "--campaign", other)
            wait_registered(fleet, "first")
            assert [job.result for job in healthy.gather("ALL", timeout=20)] == [2]
            wait_until(lambda: len(spooled(fleet)) == 1)
            assert second.poll() is None
            assert "Traceback" not in fleet.output_of(second)
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [1]
    wait_until(lambda: spooled(fleet) == [])
    assert sum(fleet.begun().values()) == 2


def test_a_worker_whose_outcomes_are_not_taken_can_end(fleet, campaign, other):
    """What it cannot settle is on disk; all else is in order."""
    with fleet.driver(campaign) as driver, fleet.driver(other) as healthy:
        worker = fleet.worker("--name", "first", slots=2, lease="20s")
        driver.submit([fleet.gated(1)])
        healthy.submit([fleet.gated(2, "later")])
        wait_until(lambda: len(fleet.lines()) == 2)
        with damaged(fleet, campaign, "index"):
            fleet.open_gate()
            wait_until(lambda: "cannot be served for now" in fleet.output_of(worker))
            worker.terminate()
            wait_until(lambda: "draining" in fleet.output_of(worker))
            fleet.open_gate("later")
            assert worker.wait(20) == 0
            assert len(spooled(fleet)) == 1
            assert fleet.queue(campaign).link.client.zrange("qe:workers", 0, -1) == []
            assert [job.result for job in healthy.gather("ALL", timeout=10)] == [2]
        fleet.worker("--name", "second")
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [1]
    assert sum(fleet.begun().values()) == 2
    check_all_recorded(fleet.queue(campaign), 1)


@pytest.mark.long
def test_a_worker_that_is_stopped_while_a_reply_does_not_come(fleet, campaign):
    """Asked twice to end: what has ended is on disk."""
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        worker = fleet.worker("--name", "first", lease="30s")
        fleet.wait_begun(1)
        server = server_state(fleet.home).pid
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        try:
            fleet.open_gate()
            wait_until(lambda: fleet.finished() == {1: 1})
            wait_until(lambda: settles(worker.pid))
            stop_now(worker, fleet)
            assert worker.wait(20) == 0
            assert len(spooled(fleet)) == 1
        finally:
            os.kill(server, signal.SIGKILL)
        wait_until(lambda: server_state(fleet.home).pid is None)
        start_server(fleet.home, keep=True)
        fleet.worker("--name", "second")
        assert [job.result for job in driver.gather("ALL", timeout=20)] == [1]
    assert fleet.begun() == {1: 1}
    assert fleet.queue(campaign).failures(1) == []


def settles(pid: int) -> bool:
    """Whether the worker's child has reported, and waits for more: its outcome is being settled."""
    children = psutil.Process(pid).children()
    return bool(children) and all(child.status() == psutil.STATUS_SLEEPING for child in children)


@pytest.mark.long
def test_what_a_local_worker_has_spooled_is_no_loss(fleet, campaign):
    """Its driver knows at once that it is dead, and lets the next one deliver what is on disk."""
    keywords = {"home": fleet.home, "campaign": campaign, "num_workers": 1, "max_losses": 1}
    gathered: list[Job] = []
    with Evaluator.create(WORK, "process", keywords) as driver:
        driver.submit([fleet.gated(7)])
        waiting = threading.Thread(target=lambda: gathered.extend(driver.gather("ALL", timeout=60)))
        waiting.start()
        fleet.wait_begun(1)
        server = server_state(fleet.home).pid
        assert server is not None
        workers = local_workers(fleet.home)
        # It stands still, so that the driver does not bring it back before the worker has noticed.
        os.kill(server, signal.SIGSTOP)
        try:
            fleet.open_gate()
            wait_until(lambda: len(spooled(fleet)) == 1, timeout_s=40)
            for worker in workers:
                worker.kill()
        finally:
            os.kill(server, signal.SIGKILL)
        waiting.join()
    (job,) = gathered
    assert (job.state, job.result, job.attempts) == ("succeeded", 7, 1)
    queue = fleet.queue(campaign)
    assert queue.failures(1) == []
    assert fleet.begun() == {1: 1}
    check_all_recorded(queue, 1)


def local_workers(home: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"worker", str(home)} <= set(process.info["cmdline"] or ())
    ]
