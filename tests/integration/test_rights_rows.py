"""What each file and password of a server can do, and cannot: the rows of docs/security.md."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from queue_eval import Evaluator
from queue_eval.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from queue_eval.connection import Link
from queue_eval.keys import Keys
from queue_eval.moves import Settled, Settlement, Submission
from queue_eval.queue import CampaignQueue
from queue_eval.server_home import ServerHome
from queue_eval.server_watch import Wire
from queue_eval.states import Outcome
from tests.support.cli import COMMAND, ROOT
from tests.support.group import INVALID, Group, Relay, by_name, by_value, other_kwargs, running_group
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with running_group() as group:
        yield group


def test_the_password_chooses_configs(group: Group, campaign: str):
    """It can: of a function that a driver has signed, but not its arguments."""
    with group.driver(campaign, lambda config, y: [config["x"], y], run_function_kwargs={"y": 1}):
        link = Link(find_access(file=group.file), name="test")
        queue = CampaignQueue.attach(link, campaign)[0]
        queue.enqueue("intruder", 1, [Submission('{"x": 7}', b"f" * 12, 1)], reuse=False)
        client = group.client()
        wait_until(lambda: client.hlen(Keys(campaign).index))
        assert [job.result for job in Evaluator.attach(campaign, home=group.home).history()] == [[7, 1]]
        client.close()
        link.close()


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
        queue = CampaignQueue.attach(link, campaign)[0]
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


def settle(queue: CampaignQueue, ended: list[Settlement], room: int) -> Settled:
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
    record = ServerHome(group.home).read()
    with Wire(record.socket, record.password) as wire:
        assert wire.call("CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]
    key = json.loads((group.home / ACCESS_FILE).read_text())["key"]
    assert (group.home / "signing.key").read_text().strip() == key
    for name in ("server.json", "server.conf", WORKER_ACCESS_FILE):
        assert key[-128:-64] not in (group.home / name).read_text()
    for name in ("signing.key", "server.json", "server.conf"):
        assert (group.home / name).stat().st_mode & 0o777 == 0o600


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


@pytest.mark.parametrize("attack", ["by-name", "by-value", "kwargs"])
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
        change = {"by-name": by_name, "by-value": by_value, "kwargs": other_kwargs}[attack]
        link.client.hset(keys.meta, mapping=change(meta, marker))
        with log.open("ab") as output:
            worker = subprocess.Popen(
                [*COMMAND, "worker", "--home", str(server), "--queue", campaign], cwd=tmp_path,
                stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            if attack == "by-name":
                with pytest.warns(UserWarning, match=f"results of campaign '{campaign}' .* are of another"):
                    driver.gather("ALL", timeout=60)
            else:
                wait_until(lambda: f"campaign {campaign} is not served" in log.read_text())
                assert INVALID in log.read_text()
            assert marker.exists() == (attack == "by-name")
        finally:
            worker.kill()
            worker.wait()
            link.close()
