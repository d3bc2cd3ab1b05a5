"""What is over leaves nothing behind: neither in a worker that lives on, nor on the server, nor on disk."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.registry import ask_to_drain
from queue_eval.machine import machine_id
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import WORKER_ACCESS_FILE, find_access
from queue_eval.transport.link import Link
from queue_eval.transport.wire import Wire
from tests.support.fault_fleet import Fleet, wait_registered
from tests.support.waiting import wait_until
from workers.options import WorkerOptions
from workers.worker import Worker

OURS = ("workers", "queue_eval")


@pytest.fixture
def living(server: Path) -> Iterator[Callable[..., Worker]]:
    """Workers in this process, whose memory can be looked at."""
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        access = find_access(None, server)
        assert access is not None
        worker = Worker(access, WorkerOptions(slots=1, lease_s=1.0, home=server, **options))
        started.append(worker)
        worker._start()
        return worker

    yield start
    for worker in started:
        worker._state.drain()
        worker._end()


def texts_in(root: object) -> set[str]:
    """Every text that an object of ours holds, however deep."""
    texts: set[str] = set()
    seen: set[int] = set()
    rest: deque[object] = deque([root])
    while rest:
        found = rest.popleft()
        if isinstance(found, str):
            texts.add(found)
        if isinstance(found, (str, bytes, int, float, type(None))) or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            rest.extend([*found.keys(), *found.values()])
        elif isinstance(found, (list, tuple, set, frozenset, deque)):
            rest.extend(list(found))
        elif type(found).__module__.split(".")[0] in OURS and not isinstance(found, threading.Thread):
            slots = [getattr(found, name, None) for name in getattr(found, "__slots__", ())]
            rest.extend([*slots, *vars(found).values()] if hasattr(found, "__dict__") else slots)
    return texts


def test_a_worker_forgets_campaigns_that_are_gone(fleet, campaign, living):
    served, refused, broken = (f"{campaign}-{kind}" for kind in ("served", "refused", "broken"))
    for name, more in ((served, {}), (refused, {"queue": "other"}), (broken, {})):
        with fleet.driver(name, **more) as driver:
            driver.submit([fleet.config(1)])
    queues = [fleet.queue(name) for name in (served, refused, broken)]
    link = queues[0].link
    link.call(lambda client: client.hdel(queues[2].keys.meta, "options"))
    worker = living()
    campaigns = worker._state.campaigns
    wait_until(lambda: queues[0].snapshot().outstanding == 0)
    wait_until(lambda: {refused, broken} <= campaigns._refused.keys() and broken in campaigns.reasons())
    wait_until(lambda: {served, refused, broken} <= texts_in(worker))  # what looks finds them
    for queue in queues:
        queue.purge()
    names = {served, refused, broken, *(queue.uid for queue in queues)}
    wait_until(lambda: names.isdisjoint(texts_in(worker)))


def test_logs_of_local_workers_that_ended_long_ago_are_removed(own_fleet, campaign):
    """Some are older than two weeks, and of the younger ones there are more than a hundred."""
    start_server(own_fleet.home, keep=True)
    logs = own_fleet.home / "logs"
    long_ago = [_log(logs, f"long-ago-{number}", days=15) for number in range(3)]
    lately = [_log(logs, f"lately-{number:03}", days=1 + number / 1000) for number in range(103)]
    living = _log(logs, "living", days=15)
    with living.open("ab") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=output)
    try:
        first_worker = _run_locally(own_fleet, campaign)
        assert not any(path.exists() for path in long_ago)
        # The log of the living one counts, too, and is the oldest.
        assert [path for path in lately if path.exists()] == lately[:100]
        assert living.exists()
        with first_worker.open("r+b") as log_file, pytest.raises(BlockingIOError):
            fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.long
def test_the_log_of_a_living_worker_that_locks_nothing_is_kept(own_fleet, campaign):
    """As those of the build before, and on file systems without locks."""
    start_server(own_fleet.home, keep=True)
    own_fleet.worker("--name", "older", "--campaign", "another")
    log = _log(own_fleet.home / "logs", "older", days=15)
    wait_registered(own_fleet, "older")
    _run_locally(own_fleet, campaign)
    assert log.exists()


def _log(folder: Path, worker: str, *, days: float) -> Path:
    """The log of a worker that wrote its last line so many days ago."""
    path = folder / f"worker-{worker}.log"
    path.write_text("it has ended")
    last = time.time() - days * 24 * 3600
    os.utime(path, (last, last))
    return path


def _run_locally(fleet: Fleet, campaign: str) -> Path:
    """Have a driver start a local worker; returns its log."""
    before = set((fleet.home / "logs").iterdir())
    with fleet.driver(campaign, local_workers=True, num_workers=1) as driver:
        driver.submit([fleet.config(1)])
        assert [job.result for job in driver.gather("ALL", timeout=40)] == [1]
    (log,) = set((fleet.home / "logs").iterdir()) - before
    return log


def test_what_a_worker_says_of_its_machine_expires(own_fleet, link):
    """After a reboot the machine has another name: nobody looks at the former one any more."""
    own_fleet.worker("--name", "here")
    key = keys.machine_key(machine_id())
    wait_until(lambda: link.call(lambda client: client.ttl(key)) > 13 * 24 * 3600)
    link.call(lambda client: client.expire(key, 1000))
    own_fleet.worker("--name", "next")
    wait_until(lambda: link.call(lambda client: client.ttl(key)) > 13 * 24 * 3600)
    # A worker of the build before goes on writing it, and takes nothing of that back.
    link.call(lambda client: client.hset(key, "older", "1 1.0"))
    assert link.call(lambda client: client.ttl(key)) > 13 * 24 * 3600


def test_a_worker_serves_where_its_user_may_not_let_keys_expire(own_home, tmp_path, campaign):
    """A server that was started by the build before gives its users that build's rights."""
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    record = ServerHome(own_home).read()
    with Wire(record.socket, record.password) as wire:
        assert wire.call("ACL", "SETUSER", "worker", "-expire") == b"OK"
    fleet = Fleet(own_home, tmp_path)
    file = tmp_path / "given.json"
    file.write_bytes((own_home / WORKER_ACCESS_FILE).read_bytes())
    file.chmod(0o600)
    try:
        worker = fleet.worker("--access", str(file), home=tmp_path / "far", slots=2)
        with fleet.driver(f"{campaign}-other") as other, fleet.driver(campaign) as driver:
            other.submit([fleet.config(0)])
            assert other.gather("ALL", timeout=20)
            for x in range(20):  # one by one, for which its listener is nudged
                driver.submit([fleet.config(x)])
                assert len(driver.gather("ALL", timeout=20)) == 1
        assert "ERROR" not in fleet.output_of(worker)
    finally:
        fleet.close()


@pytest.mark.long
def test_requests_to_drain_of_workers_that_are_gone_are_struck_off(own_fleet, link):
    """Those of this machine as soon as they are known to be dead, others when they were silent an hour."""
    own_fleet.worker("--name", "living", "--campaign", "none", lease="1s")
    killed = own_fleet.worker("--name", "killed", "--campaign", "none", lease="1s")
    wait_registered(own_fleet, "living", "killed")
    killed.kill()
    killed.wait()
    link.call(lambda client: client.sadd(keys.DRAIN, "killed"))
    wait_until(lambda: not link.call(lambda client: client.smembers(keys.DRAIN)))
    # Elsewhere, and seen by nobody: cut off a minute ago; long gone; struck off the register before.
    now_s = link.call(lambda client: client.time())[0]
    seen = {"cut-off": (now_s - 60) * 1000, "gone": (now_s - 3601) * 1000}
    link.call(lambda client: client.zadd(keys.WORKERS, seen))
    link.call(lambda client: client.sadd(keys.DRAIN, *seen, "struck-off"))
    own_fleet.worker("--name", "new", "--campaign", "none")
    wait_until(lambda: link.call(lambda client: client.smembers(keys.DRAIN)) == {b"cut-off"})
    registered = set(link.call(lambda client: client.zrange(keys.WORKERS, 0, -1)))
    assert registered == {b"cut-off", b"living", b"new"}


@pytest.mark.long
def test_a_worker_that_is_asked_to_drain_before_it_beats_again_does(own_fleet, link):
    """Another worker that starts meanwhile does not take the request for a dead one's."""
    worker = own_fleet.worker("--name", "held-up", "--campaign", "none", lease="1s")
    wait_registered(own_fleet, "held-up")
    worker.send_signal(signal.SIGSTOP)
    wait_until(lambda: not link.call(lambda client: client.exists(keys.worker_key("held-up"))))
    ask_to_drain(link, ["held-up"])
    for name in ("new", "newer"):
        own_fleet.worker("--name", name, "--campaign", "none")
        wait_registered(own_fleet, name)
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(20) == 0
    assert "asked to drain" in own_fleet.output_of(worker)


@pytest.fixture
def link(own_fleet: Fleet) -> Iterator[Link]:
    start_server(own_fleet.home, keep=True)
    link = Link(find_access(None, own_fleet.home), name="test")
    yield link
    link.close()
