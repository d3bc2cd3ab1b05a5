"""RQ on a server with users: all of it works with the rights that it is given, and nothing else does."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from queue_eval import Evaluator
from queue_eval.server.acl import RQ
from queue_eval.server.lifecycle import start_server
from queue_eval.server.settings import Network
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from tests.support.cli import start_cli
from tests.support.homes import wire_to
from tests.support.rq_fleet import ROOT, RqFleet
from tests.support.waiting import wait_until

rq = pytest.importorskip("rq")
pytest.importorskip("rq.scheduler")

FORBIDDEN = """
    CONFIG GET requirepass | FLUSHALL | FLUSHDB | SHUTDOWN NOSAVE | KEYS rq:* | SCAN 0 | RANDOMKEY | DBSIZE
    | ACL LIST | MONITOR | CLIENT LIST | CLIENT KILL TYPE normal | SCRIPT FLUSH | SCRIPT KILL | FUNCTION FLUSH
    | FUNCTION LIST | REPLICAOF 127.0.0.1 1 | SAVE | MIGRATE 127.0.0.1 1 k 0 1 | DUMP rq:queues
    | RENAME rq:queues other | RENAME other rq:queues | GET other | SET other 1 | PUBLISH other m
    | SUBSCRIBE other | EVAL redis.call('KEYS','*') 0 | EVAL redis.call('GET','other') 0 | DEBUG SLEEP 0
"""

UNNEEDED = {"client|list"}
"""RQ does without the address of its worker, from 2.9 on."""


@pytest.fixture
def home(own_home: Path) -> Path:
    """Home of a server with users who may use RQ there."""
    start_server(own_home, network=Network(host="127.0.0.1", port=0, allow_rq=True), keep=True)
    return own_home


def url(home: Path, file: str = WORKER_ACCESS_FILE) -> str:
    return find_access(file=home / file).url


@pytest.fixture
def fleet(home: Path) -> Iterator[RqFleet]:
    fleet = RqFleet(url(home), worker_class="rq.Worker", count=0)
    yield fleet
    fleet.close()


def denied(home: Path) -> list[Any]:
    """The commands that were refused to users since this was asked last."""
    with wire_to(home) as wire:
        entries = wire.call("ACL", "LOG")
        wire.call("ACL", "LOG", "RESET")
    return [bytes(entry[entry.index(b"object") + 1]).decode() for entry in entries]


def test_jobs_are_forwarded(home, fleet, campaign, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_ACCESS", str(home / ACCESS_FILE))
    given = tmp_path / "given.json"
    shutil.copy2(home / WORKER_ACCESS_FILE, given)
    fleet.start_worker()
    words = ("worker", "--access", given, "--campaign", campaign, "-n", 4)
    forwarder = start_cli(*words, home=tmp_path / "far", cwd=ROOT)
    try:
        keywords = {
            "campaign": campaign, "home": tmp_path, "rq_queue": fleet.queue, "local_workers": False,
            "num_workers": 4,
        }  # fmt: skip
        with Evaluator.create("tests.support.fault_functions:work", "rq", keywords) as evaluator:
            jobs = [{"x": x, "seconds": 0} for x in range(6)]
            evaluator.submit(jobs)
            assert len(evaluator.gather("ALL", timeout=100)) == 6
    finally:
        forwarder.kill()
        forwarder.communicate()
    assert set(denied(home)) <= UNNEEDED


def test_all_that_rq_does(home, fleet):
    with redis.Redis.from_url(url(home, ACCESS_FILE), protocol=2) as driver:
        queue = rq.Queue(fleet.queue, connection=driver)
        fleet.start_worker()
        first = queue.enqueue(len, [1, 2, 3])
        then = queue.enqueue(len, [1], depends_on=first)
        fails = queue.enqueue(math.sqrt, -1, retry=rq.Retry(max=1))
        long = queue.enqueue(time.sleep, 60)
        later = queue.enqueue_at(rq.utils.now(), len, "ab")
        wait_until(lambda: long.get_status() == "started", 60)
        rq.command.send_stop_job_command(driver, long.id)
        wait_until(lambda: long.get_status() == "stopped", 60)
        program = Path(sys.executable).with_name("rq")
        info = [str(program), "info", "-u", url(home), fleet.queue]
        told = subprocess.run(info, capture_output=True, text=True, timeout=60, check=False)
        assert (told.returncode, "1 workers, 1 queues" in told.stdout) == (0, True), told
        rq.SimpleWorker([queue], connection=driver).work(burst=True, with_scheduler=True)
        wait_until(lambda: [job.return_value() for job in (first, then, later)] == [3, 1, 2], 60)
        wait_until(lambda: fails.get_status() == "failed", 60)
        waiting = rq.Queue(f"{fleet.queue}-waiting", connection=driver)
        waiting.enqueue(len, "ab")
        waiting.compact()
        assert waiting.count == 1
        waiting.delete(delete_jobs=True)
    assert set(denied(home)) <= UNNEEDED


def test_its_scheduler(home):
    """As of `rq worker --with-scheduler`."""
    with redis.Redis.from_url(url(home), protocol=2) as client:
        queue = rq.Queue("q", connection=client)
        job = queue.enqueue_at(rq.utils.now(), len, "ab")
        scheduler = rq.scheduler.RQScheduler([queue], connection=client)
        assert scheduler.acquire_locks()
        scheduler.heartbeat()
        scheduler.enqueue_scheduled_jobs()
        scheduler.release_locks()
        assert job.get_status(refresh=True) == "queued"
    assert denied(home) == []


@pytest.mark.parametrize("file", [ACCESS_FILE, WORKER_ACCESS_FILE])
def test_nothing_else(home, file):
    with redis.Redis.from_url(url(home, file), protocol=2) as client:
        for command in FORBIDDEN.split("|"):
            with pytest.raises(redis.ResponseError, match=r"ermission|ACL failure|DEBUG command not allowed"):
                client.execute_command(*command.split())


def test_a_server_of_redis_7_0_knows_every_word():
    """It refuses to start for one that it does not know."""
    named = {word[1:] for word in RQ.split() if "|" in word}
    assert named <= {"client|setname", "script|exists", "script|load"}


def test_a_user_of_another_redis_is_given_the_same():
    """The page names the rights word by word, for who copies them."""
    assert f"ACL SETUSER queue_eval on >PASSWORD {RQ}\n" in (ROOT / "docs" / "rq.md").read_text()
