"""The users of a server that listens to others: drivers and workers can do their work, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from queue_eval import Evaluator
from queue_eval.errors import ServerRefusedError
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.server.settings import Network
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, Access, find_access
from tests.support.cli import cli_here, complaint, document, start_cli
from tests.support.homes import wire_to
from tests.support.waiting import wait_until


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home of a running server with users."""
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    return own_home


@pytest.fixture
def worker(home: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that has nothing but its access file."""
    file = tmp_path / "given.json"
    file.write_bytes((home / WORKER_ACCESS_FILE).read_bytes())
    file.chmod(0o600)
    words = ("worker", "--access", file, "-n", 2, "--name", "far", "--lease", "2s")
    process = start_cli(*words, home=tmp_path / "far", cwd=tmp_path)
    yield process
    process.kill()
    process.communicate()


def as_user(home: Path, file: str) -> redis.Redis:
    return redis.Redis.from_url(find_access(file=home / file).url, protocol=2)


def denials(home: Path) -> list[object]:
    with wire_to(home) as wire:
        return wire.call("ACL", "LOG")


def score(config):
    if config["x"] == 3:
        raise ValueError("three")
    return config["x"]


def test_all_that_drivers_and_workers_do_is_allowed(home, worker, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_ACCESS", str(home / ACCESS_FILE))
    for method in ("thread", "process"):
        keywords = {"campaign": method, "home": tmp_path, "max_attempts": 2, "retry_delay": 0.1}
        with Evaluator.create(score, method=method, method_kwargs=keywords) as evaluator:
            evaluator.submit([{"x": x} for x in range(30)])
            evaluator.submit([{"x": 99}], delay=3600)
            evaluator.gather("BATCH", 30, timeout=60)
            assert evaluator.cancel() == 1
            assert len(evaluator.gather("ALL", timeout=30)) == 1
        with Evaluator.create(score, method=method, method_kwargs=keywords) as again:
            again.submit([{"x": x} for x in range(30)])
            assert len(again.gather("ALL", timeout=30)) == 30
        assert Evaluator.attach(method).history()
    assert cli_here("retry", "thread").returncode == 0
    for command in ("pause", "resume", "status", "jobs", "cancel"):
        assert cli_here(command, "thread").returncode == 0, command
    assert cli_here("job", "thread", 4).returncode == 0
    assert cli_here("export", "thread", "--out", tmp_path / "all.csv").returncode == 0
    assert denials(home) == []
    checks = {c["name"]: c for c in document(cli_here("doctor", "--json"))["checks"]}
    with wire_to(home) as wire:
        wire.call("ACL", "LOG", "RESET")  # doctor asks for more than it need be told
    assert checks["persistence"]["status"] == checks["maxmemory-policy"]["status"] == "ok"
    assert document(cli_here("workers", "--json"))[0]["name"] == "far"
    assert cli_here("workers", "stop", "far").returncode == 0
    assert worker.wait(30) == 0
    assert cli_here("purge", "thread", "--yes").returncode == 0
    assert document(cli_here("campaigns", "--json"))[0]["campaign"] == "process"
    assert denials(home) == []


@pytest.mark.parametrize("missing", [(), ("-pttl", "-expire")], ids=["all", "of-an-earlier-build"])
def test_a_driver_may_start_local_workers(home, campaign, missing):
    with wire_to(home) as wire:
        wire.call("ACL", "SETUSER", "driver", *missing)
    with Evaluator.create(score, "process", {"campaign": campaign, "home": home}) as driver:
        driver.submit([{"x": 1}])
        assert [job.result for job in driver.gather("ALL", timeout=60)] == [1]
    assert bool(denials(home)) == bool(missing)


def test_a_driver_may_have_its_campaign_expire_and_prune(home, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_ACCESS", str(home / ACCESS_FILE))
    with Evaluator.create(score, method_kwargs={"home": tmp_path}) as evaluator:
        name = evaluator.campaign
    with Evaluator.create(score, method_kwargs={"home": tmp_path}) as evaluator:
        assert Evaluator.attach(evaluator.campaign).close() is None
    prune = ("campaigns", "--prune", "--older-than", 0, "--json")
    as_worker = cli_here(*prune, "--access", home / WORKER_ACCESS_FILE)
    assert "does not allow this to the worker's access file" in complaint(as_worker, 2)
    with wire_to(home) as wire:
        assert wire.call("ACL", "LOG")
        wire.call("ACL", "LOG", "RESET")
    pruned = document(cli_here(*prune))["pruned"]
    assert [one["campaign"] for one in pruned] == [name]
    assert denials(home) == []


FORBIDDEN = """
    CONFIG GET requirepass | CONFIG SET appendonly no | FLUSHALL | FLUSHDB | SHUTDOWN NOSAVE | KEYS * | SCAN 0
    | ACL LIST | MONITOR | CLIENT LIST | CLIENT KILL TYPE normal | SCRIPT FLUSH | FUNCTION LIST
    | REPLICAOF 127.0.0.1 1 | SAVE | BGREWRITEAOF | SUBSCRIBE c | PUBLISH c m | GET other | SET other 1
    | GET rq:queues | MIGRATE 127.0.0.1 1 k 0 1 | RENAME qe:campaigns qe:x | DUMP qe:campaigns
    | EVAL redis.call('KEYS','*') 0 | EVAL redis.call('GET','other') 0 | DEBUG SLEEP 0
"""
REFUSED = r"ermission|ACL failure|DEBUG command not allowed"


@pytest.mark.parametrize("file", [ACCESS_FILE, WORKER_ACCESS_FILE])
def test_nothing_else_is_allowed(home, file):
    with as_user(home, file) as client:
        assert client.ping()
        for command in FORBIDDEN.split("|"):
            with pytest.raises(redis.ResponseError, match=REFUSED):
                client.execute_command(*command.split())


def test_a_worker_neither_makes_nor_deletes_campaigns(home, tmp_path):
    keywords = {"campaign": "kept", "home": tmp_path, "access": home / ACCESS_FILE, "reuse": False}
    with Evaluator.create(score, method_kwargs=keywords) as evaluator:
        evaluator.submit([{"x": 1}])
    with as_user(home, WORKER_ACCESS_FILE) as client:
        for command in (
            "ZADD qe:campaigns 1 mine", "ZREM qe:campaigns kept", "UNLINK qe:{kept}:meta",
            "EVAL redis.call('UNLINK',KEYS[1]) 1 qe:{kept}:meta",
        ):  # fmt: skip
            with pytest.raises(redis.ResponseError, match=REFUSED):
                client.execute_command(*command.split())
        assert client.zrange("qe:campaigns", 0, -1) == [b"kept"]
    purge = cli_here("purge", "kept", "--yes", "--access", home / WORKER_ACCESS_FILE)
    assert "does not allow this to the worker's access file" in complaint(purge, 2)
    assert "QUEUE_EVAL_ACCESS" not in os.environ
    with pytest.raises(ServerRefusedError, match="access file of workers"):
        Evaluator.create(score, method_kwargs=keywords | {"access": home / WORKER_ACCESS_FILE})
    status = document(cli_here("status", "kept", "--json", "--access", home / ACCESS_FILE))
    assert status["counts"]["pending"] == 1


def test_the_files_say_whose_they_are(home):
    driver, worker = (json.loads((home / name).read_text()) for name in (ACCESS_FILE, WORKER_ACCESS_FILE))
    record = ServerHome(home).read()
    assert driver["url"] == f"redis://driver:{record.driver_password}@127.0.0.1:{record.port}/0"
    assert worker["url"] == f"redis://worker:{record.worker_password}@127.0.0.1:{record.port}/0"
    assert (driver.get("role"), worker["role"]) == (None, "worker")
    kind, _, half = worker["key"].partition(":")
    assert (kind, len(half)) == ("ed25519-public", 64)
    assert re.fullmatch(rf"ed25519-private:[0-9a-f]{{64}}{half}", driver["key"])
    for name in (ACCESS_FILE, WORKER_ACCESS_FILE):
        assert (home / name).stat().st_mode & 0o777 == 0o600
    stop_server(home)
    start_server(home, host="", keep=True)
    assert not (home / WORKER_ACCESS_FILE).exists()
    assert find_access(home=home).url.startswith("unix://")


def test_rq_is_allowed_when_asked_for(own_home, tmp_path):
    rq = pytest.importorskip("rq")
    start_server(own_home, network=Network(host="127.0.0.1", port=0, allow_rq=True), keep=True)
    with as_user(own_home, ACCESS_FILE) as driver, as_user(own_home, WORKER_ACCESS_FILE) as worker:
        job = rq.Queue("q", connection=driver).enqueue(len, [1, 2, 3])
        rq.SimpleWorker(["q"], connection=worker).work(burst=True)
        assert job.return_value() == 3
        with pytest.raises(redis.ResponseError):
            driver.get("other")
        with pytest.raises(redis.ResponseError):
            driver.keys("rq:*")


def test_a_user_who_may_not_read_the_settings_is_still_warned_of_eviction(home):
    with wire_to(home) as wire:
        wire.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        refused = cli_here("campaigns", "--access", home / ACCESS_FILE)
        assert "evicts keys (maxmemory-policy allkeys-lru)" in complaint(refused, 2)
        wire.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert isinstance(find_access(home=home), Access)
    wait_until(lambda: cli_here("campaigns", "--access", home / ACCESS_FILE).returncode == 0)
