"""A server for a group: drivers sign all that decides what runs, and workers hold what verifies it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import pytest
import redis

from queue_eval import Evaluator
from queue_eval.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from queue_eval.connection import Link
from queue_eval.errors import FunctionError, ServerRefusedError
from queue_eval.keys import NOTICES, Keys
from queue_eval.moves import Settled, Settlement, Submission
from queue_eval.queue import CampaignQueue
from queue_eval.server import start_server, stop_server
from queue_eval.server_home import ServerHome
from queue_eval.server_watch import Wire
from queue_eval.signing import Opening, new_key, sign
from queue_eval.states import Outcome
from tests.conftest import end_processes_of
from tests.support.cli import COMMAND, ROOT
from tests.support.waiting import wait_until


@dataclass
class Group:
    """A server with users, a worker that has only its access file, and a module that leaves a marker."""

    home: Path
    folder: Path
    log: Path

    @property
    def file(self) -> Path:
        """The access file of workers, as on another host."""
        return self.folder / "given.json"

    def driver(self, campaign: str, function: Any, **more: Any) -> Evaluator:
        keywords = {
            "campaign": campaign, "home": self.folder / "driver", "access": self.home / ACCESS_FILE,
            "local_workers": False, "max_losses": 1,
        }  # fmt: skip
        evaluator: Evaluator = Evaluator.create(function, "process", keywords | more)
        return evaluator

    def client(self) -> redis.Redis:
        """With what a worker has."""
        return redis.Redis.from_url(find_access(file=self.file).url, protocol=2)

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join((str(ROOT), str(self.folder)))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "worker", "--access", str(self.file), "--home", str(self.folder / "far"),
                 "--lease", "2s", *words],
                cwd=self.folder, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path},
            )  # fmt: skip

    def wait_refused(self, campaign: str, words: str) -> None:
        start = f"campaign {campaign} is not served: "

        def is_told() -> bool:
            lines = self.log.read_text().splitlines()
            return any(start in line and words in line for line in lines)

        wait_until(is_told)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        group = Group(folder / "home", folder, folder / "worker.log")
        start_server(group.home, host="127.0.0.1", port=0, keep=True)
        group.file.touch(0o600)
        group.file.write_bytes((group.home / WORKER_ACCESS_FILE).read_bytes())
        (folder / "marks.py").write_text("def run(config, marker):\n    open(marker, 'w').close()\n")
        worker = group.start_worker("-n", "2", "--name", "far")
        try:
            yield group
            assert worker.poll() is None
            assert "Traceback" not in group.log.read_text()
        finally:
            worker.kill()
            worker.wait()
            stop_server(group.home)
            end_processes_of(folder)


def test_what_a_driver_has_signed_runs(group: Group, campaign: str):
    for name, function in (("value", lambda config, y: config["x"] + y), ("name", "marks:run")):
        marker = group.folder / f"{campaign}-{name}"
        kwargs = {"y": 1} if name == "value" else {"marker": str(marker)}
        group.folder.joinpath("driver").mkdir(exist_ok=True)
        with group.driver(f"{campaign}-{name}", function, run_function_kwargs=kwargs) as driver:
            driver.submit([{"x": 1}])
            (job,) = driver.gather("ALL", timeout=60)
            assert (job.state, job.result) == ("succeeded", 2 if name == "value" else None)
            assert marker.exists() == (name == "name")


# With the password of workers --------------------------------------------------------------------------

Fields = dict[str, bytes]


def other_kwargs(meta: Fields, marker: Path) -> Fields:
    options = json.loads(meta["options"]) | {"kwargs": {"marker": str(marker)}}
    return {"options": json.dumps(options).encode()}


def by_name(meta: Fields, marker: Path) -> Fields:
    """Of a module in a folder that the campaign names."""
    options = {"path": [str(marker.parent)], "kwargs": {"marker": str(marker)}, "time_limit": None}
    return {"options": json.dumps(options).encode(), "function": b"marks:run", "payload": b""}


def by_value(meta: Fields, marker: Path) -> Fields:
    def evil(config: Any, path: str = str(marker)) -> None:
        import pathlib

        pathlib.Path(path).touch()

    return {"payload": cloudpickle.dumps(evil)}


def signed(meta: Fields, fields: Fields, campaign: str, key: bytes) -> Fields:
    new = meta | fields
    opening = Opening(
        campaign, new["uid"].decode(), int(new["revision"]) + 1, new["function"].decode(),
        new["method"].decode(), new["queue"].decode(), new["options"], new["payload"],
    )  # fmt: skip
    return fields | {"signature": sign(key, opening).encode()}


INVALID = "is not valid"
UNSIGNED = "is not signed, and this worker runs only what a driver of its group has signed"
SHARED = "is signed with a shared key"

ATTACKS: dict[str, tuple[str, Callable[[Fields, Path, str, bytes], Fields]]] = {
    "kwargs": (INVALID, lambda meta, marker, name, key: other_kwargs(meta, marker)),
    "function": (INVALID, lambda meta, marker, name, key: by_name(meta, marker)),
    "payload": (INVALID, lambda meta, marker, name, key: by_value(meta, marker)),
    "method": (INVALID, lambda meta, marker, name, key: {"method": b"thread"}),
    "revision": (INVALID, lambda meta, marker, name, key: {}),
    "uid": (INVALID, lambda meta, marker, name, key: {"uid": b"0" * 16}),
    "unsigned-name": (UNSIGNED, lambda meta, marker, name, key: by_name(meta, marker) | {"signature": b""}),
    "unsigned-value": (UNSIGNED, lambda meta, marker, name, key: by_value(meta, marker) | {"signature": b""}),
    "earlier-build": (
        "was signed by an earlier build",
        lambda meta, marker, name, key: by_value(meta, marker)
        | {"signature": hmac.new(key, b"", hashlib.sha256).hexdigest().encode()},
    ),
    "shared-key": (
        SHARED,  # what a worker can check it could have signed
        lambda meta, marker, name, key: signed(meta, by_value(meta, marker), name, key[-64:]),
    ),
    "own-pair": (
        INVALID,
        lambda meta, marker, name, key: signed(meta, by_value(meta, marker), name, new_key().encode()),
    ),
    "garbage": (INVALID, lambda meta, marker, name, key: {"signature": "ed25519:жж".encode()}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_worker_changes_nothing_of_what_runs(group: Group, campaign: str, attack: str):
    """Each part of what is signed is changed, with the rights of worker-access.json."""
    words, change = ATTACKS[attack]
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(campaign, lambda config, marker: None, run_function_kwargs={"marker": "/"}) as driver:
        client, keys = group.client(), Keys(campaign)
        queue = CampaignQueue.attach(Link(find_access(file=group.file), name="test"), campaign)[0]
        queue.pause(True)
        driver.submit([{"x": 1}])
        meta = {name.decode(): value for name, value in client.hgetall(keys.meta).items()}
        fields = change(meta, marker, campaign, json.loads(group.file.read_text())["key"].encode())
        client.hset(keys.meta, mapping={**fields, "paused": 0, "revision": int(meta["revision"]) + 1})
        client.xadd(NOTICES, {"what": "open", "campaign": campaign})
        group.wait_refused(campaign, words)
        assert client.zcard(keys.column("pending")) == 1
        assert not marker.exists()
        queue.link.close()
        client.close()


@pytest.mark.filterwarnings("ignore:run_function_kwargs have changed", "ignore:the source of")
def test_an_old_payload_put_back_with_other_kwargs(group: Group, campaign: str):
    old, new = ({"run_function_kwargs": {"y": y}, "on_change": "accept"} for y in (1, 2))
    client, keys = group.client(), Keys(campaign)

    def fields() -> dict[bytes, bytes]:
        found = client.hmget(keys.meta, "payload", "signature", "signed_for", "function")
        return dict(zip((b"payload", b"signature", b"signed_for", b"function"), found, strict=True))

    with group.driver(campaign, lambda config, y: y, **old):
        first = fields()
    with group.driver(campaign, lambda config, y: -y, **new) as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=60)[0].result == -2
        client.hset(keys.meta, mapping=first)
        client.hincrby(keys.meta, "revision", 1)
        driver.submit([{"x": 2}])
        group.wait_refused(campaign, INVALID)
        assert driver.gather("ALL", timeout=0.1) == []
    # Its driver mends it.
    with group.driver(campaign, lambda config, y: -y, **new) as driver:
        assert [job.result for job in driver.gather("ALL", timeout=60)] == [-2]
    client.close()


def test_the_fields_of_another_campaign(group: Group, campaign: str):
    client = group.client()
    names = ("payload", "signature", "function", "options", "method", "uid", "revision")
    marker = group.folder / f"{campaign}-was-run"
    with group.driver(f"{campaign}-a", "marks:run", run_function_kwargs={"marker": str(marker)}):
        fields = dict(zip(names, client.hmget(Keys(f"{campaign}-a").meta, names), strict=True))
    with group.driver(f"{campaign}-b", lambda config: 1):
        client.hset(Keys(f"{campaign}-b").meta, mapping=fields | {"revision": int(fields["revision"]) + 1})
        client.xadd(NOTICES, {"what": "open", "campaign": f"{campaign}-b"})
        group.wait_refused(f"{campaign}-b", INVALID)
    client.close()


def test_a_campaign_of_another_label(group: Group, campaign: str):
    """The label decides which workers run it."""
    with group.driver(campaign, lambda config: 1, queue="big"), group.client() as client:
        client.hset(Keys(campaign).meta, mapping={"queue": "default"})
        client.hincrby(Keys(campaign).meta, "revision", 1)
        client.xadd(NOTICES, {"what": "open", "campaign": campaign})
        group.wait_refused(campaign, INVALID)


def test_a_campaign_that_a_worker_has_made(group: Group, campaign: str):
    """It is on no list; but a worker that names it looks at it."""
    marker = group.folder / f"{campaign}-was-run"
    link = Link(find_access(file=group.file), name="test")
    fields = {
        "function": "marks:run", "method": "process", "source": "", "max_attempts": 1, "max_losses": 1,
        "options": json.dumps({"path": [], "kwargs": {"marker": str(marker)}, "time_limit": None}),
        "retry_first_ms": 0, "retry_factor": 1, "retry_max_ms": 0, "payload": b"", "signature": "",
        "num_workers": 1, "queue": "default",
    }  # fmt: skip
    with suppress(ServerRefusedError):  # the list of campaigns is for drivers
        CampaignQueue.open(link, campaign, fields, accept_change=False)
    queue = CampaignQueue.attach(link, campaign)[0]
    queue.enqueue("d", 1, [Submission("{}", b"f" * 12, 1)], reuse=False)
    worker = group.start_worker("--campaign", campaign)
    try:
        group.wait_refused(campaign, UNSIGNED)
        assert not marker.exists()
    finally:
        worker.kill()
        worker.wait()
        link.close()


def test_a_public_key_signs_nothing(group: Group, monkeypatch: pytest.MonkeyPatch, campaign: str):
    monkeypatch.setenv("QUEUE_EVAL_KEY", json.loads(group.file.read_text())["key"])
    with pytest.raises(FunctionError, match="the key of this driver is that of workers; give"):
        group.driver(campaign, "marks:run")


def test_an_opening_between_signing_and_opening(group: Group, campaign: str):
    """The signature is made anew for the opening that it is to be for."""
    link = Link(find_access(file=group.home / ACCESS_FILE), name="test")
    fields: dict[str, Any] = {"function": "a:b", "method": "process", "queue": "default"}
    asked: list[tuple[str, int]] = []

    def seal(uid: str, revision: int) -> str:
        asked.append((uid, revision))
        if len(asked) < 3:
            CampaignQueue.open(link, campaign, fields, accept_change=False)
        return f"for {revision}"

    queue, opened = CampaignQueue.open(link, campaign, fields, accept_change=False, sign=seal)
    meta = queue.meta()
    assert [revision for _, revision in asked] == [1, 2, 3]
    assert (meta["revision"], meta["signature"], opened.uid) == (b"3", b"for 3", asked[-1][0])
    assert meta["signed_for"].decode() == f"{opened.uid} 3"
    link.close()


def test_a_signed_opening_whose_reply_is_lost(group: Group, campaign: str, monkeypatch: pytest.MonkeyPatch):
    """The link repeats the call, which finds that the first one has opened the campaign: it is signed anew."""
    link = Link(find_access(file=group.home / ACCESS_FILE), name="test")
    fields: dict[str, Any] = {"function": "a:b", "method": "process", "queue": "default"}
    run_script = link.run_script

    def lose_first(*arguments: Any) -> Any:
        monkeypatch.setattr(link, "run_script", run_script)
        run_script(*arguments)
        return run_script(*arguments)

    monkeypatch.setattr(link, "run_script", lose_first)
    queue, opened = CampaignQueue.open(
        link, campaign, fields, accept_change=False, sign=lambda uid, revision: f"for {uid} {revision}"
    )
    meta = queue.meta()
    assert (meta["revision"], opened.created) == (b"2", False)
    assert meta["signature"].decode() == f"for {queue.uid} 2"
    link.close()


# What each file and password can do: the rows of docs/security.md ---------------------------------------


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


class Relay:
    """Passes connections on, and keeps what the clients have sent."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.seen: list[bytes] = []
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._to)
                self._open += [client, server]
                self._start(self._pass, client, server, self.seen)
                self._start(self._pass, server, client, [])

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, seen: list[bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.append(data)
                target.sendall(data)


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
