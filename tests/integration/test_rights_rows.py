"""What each file and password of a server can do, and cannot: the rows of docs/security.md."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from queue_eval import Evaluator
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import Keys
from queue_eval.model.moves import Settled, Settlement, Submission
from queue_eval.model.states import Outcome
from queue_eval.server.home import ServerHome
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from queue_eval.transport.link import Link
from tests.conftest import end_processes_of
from tests.support.cli import COMMAND, ROOT
from tests.support.group import (
    INVALID,
    Group,
    Relay,
    by_name,
    by_script,
    by_value,
    other_forward,
    other_kwargs,
    unsigned_campaign,
)
from tests.support.homes import wire_to
from tests.support.waiting import wait_until


def test_the_password_chooses_configs(group: Group, campaign: str):
    """It can: of a function that a driver has signed, but not its arguments."""
    with group.driver(campaign, lambda config, y: [config["x"], y], run_function_kwargs={"y": 1}):
        link = Link(find_access(file=group.file), name="test")
        queue = CampaignCommands.attach(link, campaign)[0]
        queue.enqueue("intruder", 1, [Submission('{"x": 7}', b"f" * 12, 1)], reuse=False)
        client = group.client()
        wait_until(lambda: client.hlen(Keys(campaign).index))
        assert [job.result for job in Evaluator.attach(campaign, home=group.home).history()] == [[7, 1]]
        client.close()
        link.close()


@pytest.mark.parametrize("servers", ["group", "one user"])
def test_the_password_reads_and_damages_campaigns(
    group: Group, server: Path, campaign: str, tmp_path: Path, servers: str
):
    """It can: read, change and delete all of a campaign that there is, and take memory."""
    home = server if servers == "one user" else group.home
    access = find_access(home=home) if servers == "one user" else find_access(file=group.file)
    keywords = {"home": home, "campaign": campaign, "local_workers": True, "queue": campaign}

    def loud(config):
        print("output of a job")
        if config["fails"]:
            raise ValueError("error of a job")
        return "result of a job"

    with Evaluator.create(loud, "process", keywords) as driver:
        driver.submit([{"fails": fails, "text": "config of a job"} for fails in (False, True)])
        driver.gather("ALL", timeout=60)
        keys = Keys(campaign)
        with redis.Redis.from_url(access.url, protocol=2) as client:
            columns = [client.hgetall(keys.column(name)) for name in ("configs", "outputs")]
            read = repr([*columns, client.xrange(keys.results)])
            for kind in ("config", "result", "error", "output"):
                assert f"{kind} of a job" in read
            client.hset(keys.column("outputs"), "9", b"x" * 2**20)
            assert client.hlen(keys.column("outputs")) == 3
            (first, fields), (second, _) = client.xrange(keys.results)
            client.xdel(keys.results, second)
            client.delete(keys.column("configs"))
            assert client.xrange(keys.results) == [(first, fields)]
            assert not client.hgetall(keys.column("configs"))


def test_the_password_reads_the_url_of_rq(group: Group, server: Path, campaign: str):
    """It can: that is stored as it was given. Messages mask it."""
    pytest.importorskip("rq")
    for home, file in ((group.home, group.file), (server, server / ACCESS_FILE)):
        keywords = {"home": home, "campaign": campaign, "rq_url": "redis://:told@127.0.0.1:1/0"}
        with (
            Evaluator.create("marks:run", "rq", keywords | {"local_workers": False}),
            redis.Redis.from_url(find_access(file=file).url, protocol=2) as client,
        ):
            assert b"redis://:told@127.0.0.1:1/0" in client.hget(Keys(campaign).meta, "options")


def test_a_drivers_password_without_its_key(group: Group, campaign: str, tmp_path: Path):
    """It can: make and purge campaigns. It cannot: have one served."""
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(campaign, lambda config: 1):
        pass
    access = find_access(file=group.home / ACCESS_FILE)
    link = Link(replace(access, key=None, file=None), name="test")
    CampaignCommands.attach(link, campaign)[0].purge()
    assert link.client.zscore("qe:campaigns", campaign) is None
    queue, _ = CampaignCommands.open(link, campaign, unsigned_campaign(marker), accept_change=False)
    queue.enqueue("d", 1, [Submission("{}", b"f" * 12, 1)], reuse=False)
    group.wait_refused(campaign, "is not signed")
    assert link.client.zscore("qe:campaigns", campaign) is not None
    assert not marker.exists()
    link.close()


def test_the_network_without_a_password(group: Group):
    """It cannot: read or change anything, nor be the default user."""
    record = ServerHome(group.home).read()
    with socket.create_connection((record.host, record.port), 10.0) as line, line.makefile("rwb") as stream:

        def told(command: str) -> bytes:
            stream.write(command.encode() + b"\r\n")
            stream.flush()
            return stream.readline()

        for command in (
            "PING", "INFO", "GET x", "SET x 1", "HGETALL qe:workers", "ZRANGE qe:campaigns 0 -1",
            "EVAL return 0", "FUNCTION LIST", "CONFIG GET requirepass", "ACL WHOAMI", "SUBSCRIBE c",
            "SHUTDOWN NOSAVE", "CLIENT LIST", "HELLO 3",
        ):  # fmt: skip
            assert told(command).startswith(b"-NOAUTH"), command
        for user in ("default", "driver", "worker"):
            for password in ('""', user, "nopass"):
                assert told(f"AUTH {user} {password}").startswith(b"-WRONGPASS"), user


@pytest.mark.filterwarnings("ignore:run_function_kwargs have changed")
def test_an_earlier_opening_put_back_whole(group: Group, campaign: str):
    """It can: that is what its driver had decided then."""
    client, keys = group.client(), Keys(campaign)
    first_kwargs, second_kwargs = ({"marker": str(group.folder / name)} for name in "12")
    with group.driver(campaign, "marks:run", run_function_kwargs=first_kwargs):
        first = client.hgetall(keys.meta)
    with group.driver(campaign, "marks:run", run_function_kwargs=second_kwargs) as driver:
        client.hset(keys.meta, mapping=first)
        driver.submit([{}])
        assert driver.gather("ALL", timeout=60)[0].state == "succeeded"
        assert [(group.folder / name).exists() for name in "12"] == [True, False]
    client.close()


def test_a_forged_result_is_no_code(group: Group, campaign: str):
    """It can: forge a result. It cannot: run code by it."""
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(campaign, "marks:run", queue="nobody", run_function_kwargs={"marker": "/"}) as driver:
        driver.submit([{"x": 1}, {"x": 2}])
        link = Link(find_access(file=group.file), name="test")
        queue = CampaignCommands.attach(link, campaign)[0]
        leased = settle(queue, [], room=2).leases
        bodies = (b'"forged"', by_value({}, marker)["payload"])
        settle(queue, [
            Settlement(lease.id, lease.attempt, Outcome.OK, 1.0, time.monotonic(), "", body)
            for lease, body in zip(leased, bodies, strict=True)
        ], room=0)  # fmt: skip
        first, second = sorted(driver.gather("ALL", timeout=60), key=lambda job: job.id)
        assert (first.state, first.result) == ("succeeded", "forged")
        assert second.state == "failed"
        assert "the result is not JSON" in second.error
        assert not marker.exists()
        link.close()


def settle(queue: CampaignCommands, ended: list[Settlement], room: int) -> Settled:
    return queue.settle(
        "intruder", ended, lease_ms=60_000, request=secrets.token_hex(4), room=room, prefetch=0,
        now=time.monotonic(),
    )  # fmt: skip


def test_what_passes_on_the_network(group: Group, campaign: str):
    """It can, without TLS: read configs and the password. It cannot: learn the key."""
    content = json.loads((group.home / ACCESS_FILE).read_text())
    url = urlsplit(content["url"])
    file = group.folder / "relayed.json"
    file.touch(0o600)
    with Relay((url.hostname, url.port)) as relay:
        relayed = content["url"].replace(f":{url.port}/", f":{relay.port}/")
        file.write_text(json.dumps(content | {"url": relayed, "embedded": False}))
        with group.driver(campaign, lambda config: config["text"], access=file) as driver:
            driver.submit([{"text": "a-word-that-passes"}])
            assert driver.gather("ALL", timeout=60)[0].result == "a-word-that-passes"
    seen = b"".join(relay.seen)
    assert b"a-word-that-passes" in seen
    assert url.password.encode() in seen
    seed = content["key"][-128:-64]
    assert seed.encode() not in seen
    assert bytes.fromhex(seed) not in seen


def test_who_has_the_servers_own_files(group: Group, campaign: str):
    """They can: everything. The record has the passwords and no key that signs; signing.key has that."""
    with wire_to(group.home) as wire:
        assert wire.call("CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]
    key = json.loads((group.home / ACCESS_FILE).read_text())["key"]
    assert (group.home / "signing.key").read_text().strip() == key
    for name in ("server.json", "server.conf", WORKER_ACCESS_FILE):
        assert key[-128:-64] not in (group.home / name).read_text()
    for name in ("signing.key", "server.json", "server.conf"):
        assert (group.home / name).stat().st_mode & 0o777 == 0o600


def test_who_has_the_own_files_of_one_users_server(server: Path):
    """They can: also sign, for the record has the key."""
    record = ServerHome(server).read()
    assert record.key == json.loads((server / ACCESS_FILE).read_text())["key"]
    with wire_to(server) as wire:
        assert wire.call("CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]
    for name in ("server.json", "server.conf"):
        assert (server / name).stat().st_mode & 0o777 == 0o600


def test_user_code_reads_what_its_account_can(group: Group, campaign: str):
    """It can: in local workers, the driver's file. That is the account's, not the worker's."""
    file = str(group.home / ACCESS_FILE)
    function = lambda config: Path(config["file"]).read_text()  # noqa: E731
    with group.driver(campaign, function, local_workers=True) as driver:
        driver.submit([{"file": file}])
        assert json.loads(driver.gather("ALL", timeout=60)[0].result)["key"].startswith("ed25519-private:")


def test_a_worker_with_a_url_and_no_key(group: Group, campaign: str, monkeypatch: pytest.MonkeyPatch):
    """It checks nothing, and runs functions by reference only."""
    monkeypatch.setenv("QUEUE_EVAL_URL", find_access(file=group.file).url)
    marker = group.folder / f"{campaign}-was-run"
    words = ("worker", "--home", str(group.folder / "bare"), "--queue", campaign)
    with group.log.open("ab") as log:
        worker = subprocess.Popen(
            [*COMMAND, *words], stdout=log, stderr=log, cwd=group.folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(group.folder)))},
        )  # fmt: skip
    monkeypatch.delenv("QUEUE_EVAL_URL")
    try:
        with group.driver(f"{campaign}-value", lambda config: 1, queue=campaign):
            group.wait_refused(f"{campaign}-value", "this worker has no key to check it")
        keywords = {"marker": str(marker)}
        with group.driver(campaign, "marks:run", queue=campaign, run_function_kwargs=keywords) as driver:
            driver.submit([{}])
            assert driver.gather("ALL", timeout=60)[0].state == "succeeded"
            assert marker.exists()
    finally:
        worker.kill()
        worker.wait()


ATTACKS = {"by-name": by_name, "by-script": by_script, "by-value": by_value, "kwargs": other_kwargs}


@pytest.mark.parametrize("attack", ["by-name", "by-script", "by-value", "kwargs"])
def test_the_password_of_one_users_server(server: Path, tmp_path: Path, campaign: str, attack: str):
    """It can: have any function called by reference. It cannot: run code by value, or with other kwargs."""
    marker, log = tmp_path / "was-run", tmp_path / "worker.log"
    (tmp_path / "marks.py").write_text("def run(config, marker):\n    open(marker, 'w').close()\n")
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "queue": campaign,
                "run_function_kwargs": {"marker": "/"}}  # fmt: skip
    with Evaluator.create(lambda config, marker: Path(marker).touch(), "process", keywords) as driver:
        driver.submit([{"x": 1}])
        link = Link(find_access(home=server), name="test")
        keys = Keys(campaign)
        meta = {name.decode(): value for name, value in link.client.hgetall(keys.meta).items()}
        change = ATTACKS[attack]
        link.client.hset(keys.meta, mapping=change(meta, marker))
        with log.open("ab") as output:
            worker = subprocess.Popen(
                [*COMMAND, "worker", "--home", str(server), "--queue", campaign], cwd=tmp_path,
                stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            if attack in ("by-name", "by-script"):
                with pytest.warns(UserWarning, match=f"results of campaign '{campaign}' .* of (an)?other"):
                    driver.gather("ALL", timeout=60)
            else:
                wait_until(lambda: f"campaign {campaign} is not served" in log.read_text())
                assert INVALID in log.read_text()
            assert marker.exists() == (attack in ("by-name", "by-script"))
        finally:
            worker.kill()
            worker.wait()
            link.close()


@pytest.mark.parametrize("allow", [False, True], ids=["", "with --allow"])
def test_whom_the_workers_of_one_users_server_forward_to(
    server: Path, tmp_path: Path, campaign: str, allow: bool
):
    """It can: choose that, but not for workers with a list of modules."""
    pytest.importorskip("rq")
    log = tmp_path / "worker.log"
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "queue": campaign}
    words = ("--allow", "math", "--allow", "by-value") if allow else ()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        with Evaluator.create("math:sqrt", "rq", keywords | {"rq_url": "redis://127.0.0.1:1/0"}) as driver:
            driver.submit([{"x": 1}])
            with redis.Redis.from_url(find_access(home=server).url, protocol=2) as client:
                options = client.hget(Keys(campaign).meta, "options")
                client.hset(Keys(campaign).meta, mapping=other_forward({"options": options}, tmp_path, url))
            with log.open("ab") as output:
                worker = subprocess.Popen(
                    [*COMMAND, "worker", "--home", str(server), "--queue", campaign, *words], cwd=tmp_path,
                    stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)},
                )  # fmt: skip
            try:
                if allow:
                    wait_until(lambda: "'rq' forwards to processes" in log.read_text())
                listener.settimeout(0 if allow else 60.0)
                with pytest.raises(BlockingIOError) if allow else nullcontext():
                    listener.accept()[0].close()
            finally:
                worker.kill()
                worker.wait()
                end_processes_of(tmp_path)
