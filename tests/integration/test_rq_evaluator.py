"""Attempts in an RQ fleet: what is visible there, what is joined, taken back and ended."""

from __future__ import annotations

import os
import secrets
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rq import Queue
from rq.command import send_stop_job_command
from rq.job import Job
from rq.registry import StartedJobRegistry

from queue_eval import Evaluator
from queue_eval.model.states import Method
from queue_eval.rq_bridge.commands import BEAT_S, RqCommands
from queue_eval.transport.access import find_access
from queue_eval.transport.urls import safe_url
from tests.support.executor_harness import Harness, is_running, result_of, text_of
from tests.support.rq_fleet import RqFleet, RqRedis
from tests.support.told import gather_until_told
from tests.support.waiting import wait_until

WORK = "tests.support.fault_functions:work"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RqRedis]:
    server = RqRedis()
    yield server
    server.close()


@pytest.fixture(
    scope="module", params=["rq.SimpleWorker", pytest.param("rq.Worker", marks=pytest.mark.long)]
)
def any_fleet(request: pytest.FixtureRequest, redis_server: RqRedis) -> Iterator[RqFleet]:
    fleet = RqFleet(redis_server.url, worker_class=request.param)
    fleet.forget_leftovers()
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(redis_server: RqRedis) -> Iterator[RqFleet]:
    """One that a test starts the workers of."""
    fleet = RqFleet(redis_server.url, count=0)
    fleet.forget_leftovers()
    yield fleet
    fleet.close()


@pytest.fixture
def harness() -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make(fleet: RqFleet, uid: str = "", **keywords: Any) -> Harness:
        forward = fleet.forward(**({"uid": uid} if uid else {}))
        made.append(Harness(Method.RQ, WORK, forward=forward, **keywords))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Log:
    """The side log of `fault_functions.work`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "side.log"
        self.gate = folder / "gate"

    def config(self, x: Any = 0, **more: Any) -> dict[str, Any]:
        return {"x": x, "log": str(self.file)} | more

    def gated(self, x: Any = 0) -> dict[str, Any]:
        return self.config(x, gate=str(self.gate))

    def lines(self, what: str) -> list[list[str]]:
        text = self.file.read_text() if self.file.exists() else ""
        return [words for line in text.splitlines() if (words := line.split())[0] == what]

    def begun(self) -> list[int]:
        return [int(words[1]) for words in self.lines("start")]

    def pids(self) -> list[int]:
        return [int(words[2]) for words in self.lines("start")]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def client_of(fleet: RqFleet) -> Any:
    import redis

    return redis.Redis.from_url(fleet.url)


def kill_forwarder(harness: Harness) -> None:
    """``kill -9``, as when its worker is killed; the harness is not to be used afterwards."""
    harness.executor._process.kill()
    harness.executor._process = None


def test_an_evaluator(server: Path, campaign: str, log: Log) -> None:
    """On our own server, which is RQ's Redis if no other is named."""
    access = find_access(None, server)
    assert access is not None
    fleet = RqFleet(access.url, count=1, worker_class="rq.SimpleWorker")
    offset = 100

    def run(config: dict[str, Any]) -> Any:
        print("printed")
        if config["x"] == 3:
            raise ValueError("three")
        return config["x"] + offset

    try:
        options = {"home": server, "campaign": campaign, "num_workers": 3, "rq_queue": fleet.queue}
        with Evaluator.create(run, "rq", options) as evaluator:
            evaluator.submit([{"x": x} for x in range(6)])
            jobs = sorted(evaluator.gather("ALL", timeout=60), key=lambda job: job.id)
            evaluator.submit([log.gated()])
        assert [job.result for job in jobs if job.id != 4] == [100, 101, 102, 104, 105]
        assert (jobs[3].state, jobs[3].cause) == ("failed", "error")
        assert "ValueError: three" in jobs[3].error
    finally:
        fleet.close()


def test_a_beat_from_before_the_clock_was_set_back_ends(redis_server: RqRedis) -> None:
    """A dead execution is seen by its silence, however long its last beat would stand."""
    commands = RqCommands(redis_server.client, secrets.token_hex(8), "jobs")
    dead, reported, unknown = (1, 1), (2, 1), (3, 1)
    client = redis_server.client
    for token, holder in ((dead, "execution"), (reported, "done")):
        client.set(commands._beat(token), holder, px=3_600_000)
    assert commands.are_alive([dead, reported, unknown]) == [True, True, False]
    assert client.pttl(commands._beat(dead)) <= BEAT_S * 1000
    assert client.pttl(commands._beat(reported)) > BEAT_S * 1000


def test_an_attempt_is_a_job_of_rq(harness, any_fleet: RqFleet, log: Log) -> None:
    executor = harness(any_fleet)
    (token,) = executor.submit(log.gated("x"))
    executor.until(log.begun)
    client = client_of(any_fleet)
    started = StartedJobRegistry(any_fleet.queue, connection=client)
    (job_id,) = started.get_job_ids()
    job = Job.fetch(job_id, connection=client)
    assert job.description == f"test job 1 attempt 1: {WORK}"
    assert (job.timeout, job.result_ttl, job.retries_left) == (-1, 0, None)
    command = [str(Path(sys.executable).with_name("rq")), "info", "-u", any_fleet.url, "--raw"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"queue {any_fleet.queue} 0" in shown
    assert f"busy {any_fleet.queue}" in shown
    log.gate.touch()
    (one,) = executor.wait([token])
    assert result_of(one) == "x"
    executor.close()
    any_fleet.wait_until_nothing_is_left()


def test_no_more_is_in_rq_than_was_asked_for(harness, fleet: RqFleet, log: Log) -> None:
    executor = harness(fleet, slots=3)
    tokens = executor.submit(*[log.config(x) for x in range(10)])
    queue = Queue(fleet.queue, connection=client_of(fleet))
    executor.until(lambda: queue.count == 3)
    fleet.start_worker()
    executor.until(lambda: queue.count < 3)
    executor.until(lambda: queue.count <= 3 and len(executor.ended) == 10)
    assert [result_of(executor.ended[token]) for token in tokens] == list(range(10))


def test_what_waits_in_rq_is_taken_back(harness, fleet: RqFleet, log: Log) -> None:
    executor = harness(fleet)
    tokens = executor.submit(log.config(1), log.config(2), log.config(3))
    queue = Queue(fleet.queue, connection=client_of(fleet))
    executor.until(lambda: queue.count == 2)
    executor.executor.take_back(1e12)
    executor.until(lambda: len(executor.returned) == 3)
    assert sorted(executor.returned) == tokens
    assert queue.count == 0
    fleet.start_worker()
    executor.ids.clear()
    (again,) = executor.submit(log.config(4), attempt=2)
    assert result_of(executor.wait([again])[0]) == 4
    assert log.begun() == [1]


def test_those_who_were_popped_before_they_were_taken_back_do_not_run(
    harness, fleet: RqFleet, log: Log
) -> None:
    executor = harness(fleet)
    executor.submit(log.config(1))
    client = client_of(fleet)
    key = f"rq:queue:{fleet.queue}"
    popped = executor.until(lambda: client.lpop(key))
    kept = client.dump(f"rq:job:{popped.decode()}")
    executor.executor.take_back(1e12)
    executor.until(lambda: executor.returned)
    # As if its RQ worker had been slow: it goes on with what it has popped.
    client.restore(f"rq:job:{popped.decode()}", 0, kept, replace=True)
    client.rpush(key, popped)
    worker = fleet.start_worker()
    wait_until(lambda: "is not run: unwanted" in fleet.log())
    assert log.begun() == []
    assert worker.poll() is None


def test_what_runs_is_ended(harness, any_fleet: RqFleet, log: Log) -> None:
    executor = harness(any_fleet)
    (token,) = executor.submit(log.gated())
    executor.until(log.begun)
    executor.until(executor.executor.begun)
    begun_at = time.monotonic()
    assert executor.executor.forget([token], begun=True) == [token]
    (pid,) = log.pids()
    executor.until(lambda: not is_running(pid))
    assert time.monotonic() - begun_at < 4
    executor.until(lambda: not client_of(any_fleet).exists(f"rq:wip:{any_fleet.queue}"))
    (other,) = executor.submit(log.config(5))
    assert result_of(executor.wait([other])[0]) == 5


def test_the_end_of_the_executor_is_the_end_of_what_it_has_forwarded(
    harness, any_fleet: RqFleet, log: Log
) -> None:
    executor = harness(any_fleet, slots=3)
    executor.submit(*[log.gated()] * 3)
    executor.until(lambda: len(log.begun()) == 2)
    executor.close()
    wait_until(lambda: not any(is_running(pid) for pid in log.pids()))
    any_fleet.wait_until_nothing_is_left()


def test_what_runs_is_joined_by_the_next_life(harness, any_fleet: RqFleet, log: Log) -> None:
    uid = secrets.token_hex(8)
    first = harness(any_fleet, uid=uid)
    first.submit(log.gated("joined"))
    first.until(first.executor.begun)
    kill_forwarder(first)
    second = harness(any_fleet, uid=uid)
    (token,) = second.submit(log.config("own"), attempt=2)
    second.until(second.executor.begun)
    log.gate.touch()
    (one,) = second.wait([token])
    assert (one.token, result_of(one)) == ((1, 2), "joined")
    assert log.begun() == [1]
    second.close()
    any_fleet.wait_until_nothing_is_left()


def test_the_death_of_the_forwarder_costs_nothing(harness, any_fleet: RqFleet, log: Log) -> None:
    executor = harness(any_fleet, slots=3)
    tokens = executor.submit(*[log.gated(x) for x in range(4)])
    executor.until(lambda: len(executor.executor.begun()) == 2)
    os.kill(executor.executor._process.pid, signal.SIGKILL)
    executor.until(lambda: executor.executor.slots == 0)
    assert len(executor.executor.begun()) == 2
    executor.until(lambda: executor.executor.slots == 3)
    log.gate.touch()
    assert [result_of(one) for one in executor.wait(tokens)] == [0, 1, 2, 3]
    assert sorted(log.begun()) == [1, 2, 3, 4]


def test_entries_that_are_none_of_ours(harness, any_fleet: RqFleet, log: Log) -> None:
    uid = secrets.token_hex(8)
    client = client_of(any_fleet)
    for fields in ({"f": b"\0\0\0\x05[1]\nx"}, {"f": b"junk"}, {"g": b"1"}):
        client.xadd(f"qe:rq:{uid}:replies", fields)
    client.expire(f"qe:rq:{uid}:replies", 1000)
    executor = harness(any_fleet, uid=uid)
    assert result_of(executor.wait(executor.submit(log.config("x")))[0]) == "x"


def test_a_result_that_nobody_was_there_for(harness, any_fleet: RqFleet, log: Log) -> None:
    uid = secrets.token_hex(8)
    first = harness(any_fleet, uid=uid)
    first.submit(log.gated("late"))
    first.until(first.executor.begun)
    kill_forwarder(first)
    log.gate.touch()
    client = client_of(any_fleet)
    wait_until(lambda: client.get(f"qe:rq:{uid}:beat:1-1") == b"done")
    second = harness(any_fleet, uid=uid)
    (token,) = second.submit(log.config("own"), attempt=2)
    assert result_of(second.wait([token])[0]) == "late"
    second.close()
    any_fleet.wait_until_nothing_is_left()


def test_a_failure_that_nobody_was_there_for_is_nobodys(harness, any_fleet: RqFleet, log: Log) -> None:
    uid = secrets.token_hex(8)
    first = harness(any_fleet, uid=uid)
    first.submit(log.gated() | {"raise": "wrong"})
    first.until(first.executor.begun)
    kill_forwarder(first)
    log.gate.touch()
    client = client_of(any_fleet)
    wait_until(lambda: client.get(f"qe:rq:{uid}:beat:1-1") == b"done")
    second = harness(any_fleet, uid=uid)
    (token,) = second.submit(log.config("own"), attempt=2)
    assert result_of(second.wait([token])[0]) == "own"
    assert log.begun() == [1, 1]


@pytest.mark.long
def test_a_setup_that_is_not_there_is_sent_again(harness, fleet: RqFleet, log: Log) -> None:
    executor = harness(fleet, uid="1111111111")
    (token,) = executor.submit(log.config("x"))
    client = client_of(fleet)
    executor.until(lambda: client.llen(f"rq:queue:{fleet.queue}"))
    assert client.delete("qe:rq:1111111111:setup:1")
    fleet.start_worker()
    assert result_of(executor.wait([token])[0]) == "x"
    assert log.begun() == [1]


def test_jobs_of_others_are_left_alone(harness, redis_server: RqRedis, fleet: RqFleet, log: Log) -> None:
    client = client_of(fleet)
    mine = Queue(fleet.queue, connection=client)
    other = Queue(f"{fleet.queue}-other", connection=client)
    jobs = [mine.enqueue("time.sleep", 0), other.enqueue("time.sleep", 0)]
    executor = harness(fleet)
    executor.submit(log.config(1), log.config(2))
    executor.until(lambda: mine.count == 3)
    executor.close()
    assert mine.job_ids == [jobs[0].id]
    assert other.job_ids == [jobs[1].id]
    fleet.start_worker()
    wait_until(lambda: jobs[0].is_finished)
    for job in jobs:
        job.delete()


def test_rq_is_kept_from_taking_a_long_attempt_for_abandoned(
    harness, any_fleet: RqFleet, log: Log
) -> None:
    uid = secrets.token_hex(8)
    executor = harness(any_fleet, uid=uid)
    (token,) = executor.submit(log.gated())
    executor.until(executor.executor.begun)
    client = client_of(any_fleet)
    commands = RqCommands(client, uid, any_fleet.queue)
    commands.keep(token, time.time(), 5000)
    ((_, until_s),) = client.zrange(f"rq:wip:{any_fleet.queue}", 0, -1, withscores=True)
    assert until_s > time.time() + 4000
    (execution,) = client.keys(f"rq:execution:qe-{uid[:8]}-*")
    assert client.ttl(execution) > 4000
    log.gate.touch()
    executor.wait([token])
    executor.close()
    any_fleet.wait_until_nothing_is_left()


@pytest.mark.parametrize("wrong", ["password", "server", "nobody"])
def test_no_way_to_rqs_redis(harness, redis_server: RqRedis, fleet: RqFleet, caplog, tmp_path, wrong) -> None:
    if wrong == "password":
        fleet.url = redis_server.url.replace(redis_server.password, "wrong")
        reason = "invalid username-password"
    elif wrong == "nobody":
        fleet.url = f"unix://{tmp_path}/nobody.sock"
        reason = "nobody.sock"
    else:
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Http)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fleet.url = f"redis://127.0.0.1:{server.server_address[1]}"
        reason = "Protocol"
    try:
        executor = harness(fleet)
        executor.submit({})
        executor.until(lambda: executor.executor.slots == 0)
        (message,) = [record.getMessage() for record in caplog.records]
        assert reason in message
        assert message.startswith("rq is away: RQ's Redis at ")
        assert "\n" not in message
        assert redis_server.password not in message
    finally:
        if wrong == "server":
            server.shutdown()
            server.server_close()


class _Http(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.long
def test_a_queue_that_nobody_listens_to_is_told(harness, fleet: RqFleet, log: Log, caplog) -> None:
    """The log is told within seconds, and again when it is over; so is the card, by `trouble`."""
    executor = harness(fleet)
    began_at = time.monotonic()
    (token,) = executor.submit(log.gated(1))
    trouble = executor.until(lambda: executor.executor.trouble)
    assert time.monotonic() - began_at < 7
    assert trouble == (
        f"no RQ worker listens to queue '{fleet.queue}' at {safe_url(fleet.url)}; "
        f"start one with: rq worker -u URL {fleet.queue}"
    )
    assert trouble in caplog.messages
    # A worker that was killed long ago, and that RQ has not struck off its list.
    client = client_of(fleet)
    client.sadd(f"rq:workers:{fleet.queue}", "rq:worker:long-dead")
    fleet.start_worker()
    executor.until(lambda: not executor.executor.trouble)
    client.set("rq:suspended", "1")
    executor.until(lambda: "are suspended" in executor.executor.trouble)
    client.delete("rq:suspended")
    executor.until(lambda: not executor.executor.trouble)
    log.gate.touch()
    assert result_of(executor.wait([token])[0]) == 1


def test_a_driver_is_told_that_nobody_listens(own_home: Path, fleet: RqFleet, log: Log) -> None:
    options = {"home": own_home, "campaign": "deaf", "rq_queue": fleet.queue, "rq_url": fleet.url}
    why = rf"campaign 'deaf'.*no RQ worker listens to queue '{fleet.queue}' at unix://.*rq.sock; start one"
    with Evaluator.create(WORK, "rq", options | {"num_workers": 1}) as evaluator:
        evaluator.submit([log.config(1)])
        jobs, told = gather_until_told(evaluator, why)
        assert jobs == []
        assert not any(urlsplit(fleet.url).password in said for said in told)
        fleet.start_worker()
        assert [job.result for job in evaluator.gather("ALL", timeout=60)] == [1]


@pytest.mark.long
def test_an_attempt_that_was_popped_and_never_begun(harness, fleet: RqFleet, log: Log) -> None:
    """RQ workers of two queues pop before they note what they have popped."""
    executor = harness(fleet)
    (token,) = executor.submit(log.config("x"))
    client = client_of(fleet)
    executor.until(lambda: client.lpop(f"rq:queue:{fleet.queue}"))
    fleet.start_worker("another-queue")
    assert result_of(executor.wait([token])[0]) == "x"
    assert log.begun() == [1]
    executor.close()
    fleet.wait_until_nothing_is_left()


@pytest.mark.long
def test_rqs_own_stop_ends_user_code_too(harness, fleet: RqFleet, log: Log) -> None:
    fleet.start_worker()
    executor = harness(fleet)
    (token,) = executor.submit(log.gated())
    executor.until(log.begun)
    client = client_of(fleet)
    (job_id,) = StartedJobRegistry(fleet.queue, connection=client).get_job_ids()
    send_stop_job_command(client, job_id)
    (pid,) = log.pids()
    executor.until(lambda: not is_running(pid))
    (one,) = executor.wait([token])
    assert (one.outcome, text_of(one)) == (
        "lost", "the RQ worker that ran this job died: no sign of life for 10 s"
    )  # fmt: skip
    fleet.wait_until_nothing_is_left()
