"""Whose hands the keys of a group are in: of local workers, of homes and files of the build before."""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from queue_eval import Evaluator
from queue_eval.errors import FunctionError, ServerError, UsageError
from queue_eval.function import signing
from queue_eval.function.signing import Opening, sign, verify
from queue_eval.server.home import ServerHome
from queue_eval.server.home_loss import HomeLoss
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.server.settings import Network
from queue_eval.server.watcher import HomeMark
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access, read_access
from tests.conftest import end_processes_of
from tests.support.cli import cli, cli_here, complaint
from tests.support.marks import long
from tests.support.waiting import wait_until


@pytest.fixture
def home(own_home: Path) -> Path:
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    return own_home


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Path]:
    """The home of a driver on another host; whatever runs for it ends with the test."""
    yield tmp_path / "far"
    end_processes_of(tmp_path / "far")


def key_of(home: Path, name: str = ACCESS_FILE) -> str:
    return str(json.loads((home / name).read_text())["key"])


def copied(file: Path, folder: Path) -> Path:
    copy = folder / file.name
    copy.touch(0o600)
    copy.write_bytes(file.read_bytes())
    return copy


def assert_serves(home: Path, campaign: str) -> None:
    keywords = {"home": home, "campaign": campaign}
    with Evaluator.create(lambda config: config["x"], "process", keywords) as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=60)[0].result == 1


# Local workers -----------------------------------------------------------------------------------------


def holds(process: psutil.Process, secret: bytes) -> bool:
    """Whether a process has this anywhere in its memory."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            place, mode, *_ = line.split()
            first, last = (int(part, 16) for part in place.split("-"))
            if mode.startswith("rw"):
                memory.seek(first)
                with_secret = secret in memory.read(last - first)
                if with_secret:
                    return True
    return False


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
@pytest.mark.parametrize("way", ["home", "file", "url", "file and variable"])
def test_local_workers_never_hold_the_key(home, far, campaign, tmp_path, monkeypatch, way):
    """Neither they nor what runs user code: not in the environment, not in memory."""
    key = key_of(home)
    seed = key.partition(":")[2][:64].encode()
    keywords = {"campaign": campaign, "home": home if way == "home" else far, "local_workers": True}
    if way.startswith("file"):
        keywords["access"] = copied(home / ACCESS_FILE, tmp_path)
    if way == "url":
        keywords["url"] = find_access(home=home).url
    if way in ("url", "file and variable"):
        monkeypatch.setenv("QUEUE_EVAL_KEY", key)
    with Evaluator.create(lambda config: config["x"], "process", keywords) as driver:
        driver.submit([{"x": 5}])
        (job,) = driver.gather("ALL", timeout=60)
        assert job.result == 5
        (worker,) = (
            one for one in psutil.process_iter(["cmdline"])
            if "worker" in (one.info["cmdline"] or ()) and campaign in one.info["cmdline"]
        )  # fmt: skip
        assert key.partition(":")[2][-64:] in given_key(worker, home, far)
        for process in (worker, *worker.children(recursive=True)):
            assert not holds(process, seed)


def given_key(worker: psutil.Process, home: Path, far: Path) -> str:
    """The key that a local worker was given, by environment or file."""
    environment = worker.environ()
    if "QUEUE_EVAL_KEY" in environment:
        assert environment["QUEUE_EVAL_KEY"].startswith("ed25519-public:")
    if "QUEUE_EVAL_ACCESS" in environment:
        file = Path(environment["QUEUE_EVAL_ACCESS"])
        assert (file.parent, file.stat().st_mode & 0o777) == (far, 0o600)
        assert find_access(file=file).role == "worker"
        return key_of(file.parent, file.name)
    return environment.get("QUEUE_EVAL_KEY") or key_of(home, WORKER_ACCESS_FILE)


@pytest.mark.long
def test_local_workers_follow_the_server(home, far, campaign, tmp_path):
    """Their driver writes their file again when its own is a new one."""
    file = copied(home / ACCESS_FILE, tmp_path)
    keywords = {"campaign": campaign, "home": far, "local_workers": True, "access": file}
    with Evaluator.create(lambda config: config["x"], "process", keywords) as driver:
        driver.submit([{"x": 1}])
        (first,) = driver.gather("ALL", timeout=60)
        stop_server(home)
        start_server(home, port=0, keep=True)
        copied(home / ACCESS_FILE, tmp_path)
        driver.submit([{"x": 2}])
        (second,) = driver.gather("ALL", timeout=60)
        assert (second.result, second.worker) == (2, first.worker)


def test_a_worker_keeps_no_key_that_signs_of_any_file(home, tmp_path, monkeypatch):
    """Not of access.json either, and not when that is replaced."""
    file = copied(home / ACCESS_FILE, tmp_path)
    public = key_of(home, WORKER_ACCESS_FILE).encode()
    access = find_access(file=file, role="worker")
    assert (access.key, access.verifies_only) == (public, True)
    assert find_access(home=home, role="worker").file == home / WORKER_ACCESS_FILE
    assert find_access("redis://host", home, role="worker").key == public
    monkeypatch.setenv("QUEUE_EVAL_KEY", key_of(home))
    assert find_access("redis://host", role="worker").key == public
    assert find_access(file=file, role="worker").key == public


# Of the build before -----------------------------------------------------------------------------------


def make_old(home: Path) -> tuple[bytes, bytes]:
    """Both access files as the build before wrote them: they, and the record, have one shared key."""
    key = secrets.token_hex(32)
    files = ServerHome(home)
    files.write(replace(files.read(), key=key))
    files.signing_key_file.unlink()
    for name in (ACCESS_FILE, WORKER_ACCESS_FILE):
        content = json.loads((home / name).read_text()) | {"key": key}
        (home / name).write_text(json.dumps(content))
    return (home / ACCESS_FILE).read_bytes(), (home / WORKER_ACCESS_FILE).read_bytes()


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_a_home_of_the_build_before_is_taken_over(home, far, campaign, tmp_path, runs):
    make_old(home)
    passwords = ServerHome(home).read().passwords
    if not runs:
        stop_server(home)
    assert cli("server", "start", "--home", home).returncode == 0
    assert key_of(home).startswith("ed25519-private:")
    assert key_of(home, WORKER_ACCESS_FILE).startswith("ed25519-public:")
    assert ServerHome(home).read().passwords == passwords
    before = key_of(home)
    assert cli("server", "start", "--home", home).returncode == 0
    assert key_of(home) == before
    assert_serves(home, campaign)


def test_files_of_the_build_before_are_refused(home, far, campaign, tmp_path):
    driver, worker = make_old(home)
    mend = "start its server once with this build"
    for name, content in (("driver.json", driver), ("worker.json", worker)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(content)
    refused = cli("worker", "--access", tmp_path / "worker.json", home=far)
    assert mend in complaint(refused, 2)
    keywords = {"access": tmp_path / "driver.json", "home": far, "campaign": campaign}
    with pytest.raises(UsageError, match=mend) as caught:
        Evaluator.create("math:sqrt", "process", keywords)
    assert f"{tmp_path / 'driver.json'} is of an earlier build" in str(caught.value)


@pytest.mark.long
def test_after_new_secrets_no_earlier_file_is_worth_anything(home, far, campaign, tmp_path):
    """And campaigns go on when their driver has run once more, with what they have."""
    copies = [copied(home / name, tmp_path) for name in (ACCESS_FILE, WORKER_ACCESS_FILE)]
    before = ServerHome(home).read()
    keywords = {"campaign": campaign, "home": home, "local_workers": True}
    with Evaluator.create(lambda config: config["x"], "process", keywords) as driver:
        driver.submit([{"x": 1}])
        driver.gather("ALL", timeout=60)
    running = complaint(cli("server", "start", "--new-secrets", "--home", home), 2)
    assert f"stop it first with: queue-eval server stop --home {home}" in running
    assert cli("server", "stop", "--home", home).returncode == 0
    assert ServerHome(home).read().passwords == before.passwords
    assert cli("server", "start", "--new-secrets", "--home", home).returncode == 0
    after = ServerHome(home).read()
    assert not {*before.passwords, before.key} & {*after.passwords, after.key}
    assert (after.host, after.port) == (before.host, before.port)
    for copy in copies:
        refused = cli("campaigns", "--access", copy, home=far)
        assert "invalid username-password pair" in complaint(refused, 2)
    with Evaluator.create(lambda config: config["x"], "process", keywords) as driver:
        driver.submit([{"x": 1}, {"x": 2}])
        jobs = driver.gather("ALL", timeout=60)
    assert [(job.result, job.attempts) for job in jobs] == [(1, 1), (2, 1)]
    key = key_of(home)
    assert cli("server", "start", "--home", home).returncode == 0
    assert key_of(home) == key, "only when it is asked for"


def test_new_secrets_change_nothing_for_who_lives(home, campaign, tmp_path):
    """Driver and workers come back by the new files of the home: it is still the same home."""
    gate = tmp_path / "gate"
    keywords = {"campaign": campaign, "home": home, "local_workers": True}
    with Evaluator.create(wait_for, "process", keywords) as driver:
        driver.submit([{"x": 1, "gate": str(gate)}, {"x": 2, "gate": str(gate)}])
        wait_until(gate.with_name("begun").exists)
        loss, watched = HomeLoss(home), HomeMark(str(home))
        stop_server(home)
        start_server(home, keep=True, new_secrets=True)
        gate.touch()
        jobs = sorted(driver.gather("ALL", timeout=60), key=lambda job: job.id)
        assert [(job.result, job.attempts) for job in jobs] == [(1, 1), (2, 1)]
        assert (loss.tell(), watched.is_gone()) == (None, False)


def wait_for(config):
    import time

    Path(config["gate"]).with_name("begun").touch()
    while not Path(config["gate"]).exists():
        time.sleep(0.02)
    return config["x"]


@pytest.mark.parametrize("why", ["port", *long("address", "package")])
def test_new_secrets_that_fail_change_nothing(home, campaign, monkeypatch, why):
    """What copies there are stay right: of the key as of the passwords."""
    stop_server(home)
    names = (ACCESS_FILE, WORKER_ACCESS_FILE, "signing.key")
    before = [(home / name).read_bytes() for name in names]
    with socket.create_server(("127.0.0.1", 0)) as taken, monkeypatch.context() as patch:
        network = Network(port=taken.getsockname()[1])
        if why == "address":
            network = Network(host="192.0.2.1", port=0)
        if why == "package":
            hide_cryptography(patch)
        with pytest.raises((UsageError, ServerError)):
            start_server(home, network=network, keep=True, new_secrets=True)
    assert [(home / name).read_bytes() for name in names] == before
    start_server(home, keep=True)
    for name, text in zip(names[:2], before, strict=False):
        assert key_of(home, name) == json.loads(text)["key"]
    assert_serves(home, campaign)


def hide_cryptography(patch):
    find = importlib.util.find_spec
    patch.setattr(
        signing.importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name)
    )


def test_another_home_in_the_same_folder_is_another(home):
    mark = HomeMark(str(home))
    files = ServerHome(home)
    files.write(replace(files.read(), key="another"))
    assert not mark.is_gone()
    (home / "home.id").write_text("f" * 32)
    assert mark.is_gone()


def test_new_secrets_of_one_users_server(own_home, campaign):
    start_server(own_home, keep=True)
    before = ServerHome(own_home).read()
    stop_server(own_home)
    start_server(own_home, keep=True, new_secrets=True)
    after = ServerHome(own_home).read()
    assert (after.password == before.password, after.key == before.key) == (False, False)
    assert_serves(own_home, campaign)


def test_a_server_that_serves_one_user_again_has_a_shared_key(home, campaign):
    stop_server(home)
    start_server(home, host="", keep=True)
    assert re.fullmatch("[0-9a-f]{64}", key_of(home))
    assert_serves(home, campaign)


def test_no_group_without_the_package(own_home, monkeypatch):
    hide_cryptography(monkeypatch)
    refused = complaint(cli_here("server", "start", "--host", "127.0.0.1", "--port", 0, home=own_home), 2)
    assert "needs the package cryptography; install it with: pip install 'queue-eval[group]'" in refused
    assert not (own_home / ACCESS_FILE).exists()
    assert cli_here("server", "start", home=own_home).returncode == 0  # for one user it is not needed


# One user ----------------------------------------------------------------------------------------------

OPENING = Opening("c", "u", 1, "m:f", "process", "default", b"{}", b"payload")
SHARED = b"k" * 32


def test_a_shared_key_signs_the_same(campaign):
    """Without a group, code by value is signed with all that decides what runs, too."""
    signature = sign(SHARED, OPENING)
    verify(SHARED, OPENING, signature)
    for change in (
        {"campaign": "d"}, {"uid": "v"}, {"revision": 2}, {"function": "m:g"}, {"method": "thread"},
        {"queue": "big"}, {"options": b"{ }"}, {"payload": b"payloae"},
        {"function": "m:fprocess", "method": ""}, {"options": b"{}payload", "payload": b""},
    ):  # fmt: skip
        if change.get("payload") != b"":
            with pytest.raises(FunctionError, match="is not valid"):
                verify(SHARED, replace(OPENING, **change), signature)
        assert replace(OPENING, **change).message != OPENING.message


@pytest.mark.parametrize(
    ("key", "signature", "words"),
    [
        (None, "", "this worker has no key to check it"),
        (SHARED, "", "is not valid"),
        (SHARED, "0" * 64, "was signed by an earlier build.*; run its driver again"),
        (SHARED, "ed25519:00", "is signed with the key of a group, and this worker has another; give it"),
    ],
)
def test_what_is_wrong_with_a_signature_is_said(key, signature, words):
    with pytest.raises(FunctionError, match=words):
        verify(key, OPENING, signature)


def test_by_reference_a_shared_key_asks_for_no_signature():
    by_name = replace(OPENING, payload=b"")
    for key in (None, SHARED):
        verify(key, by_name, "")
        verify(key, by_name, "0" * 64)
    with pytest.raises(FunctionError, match="give it worker-access"):
        verify(SHARED, by_name, "ed25519:00")


# Empty -------------------------------------------------------------------------------------------------


def test_an_empty_key_is_refused(home, far, tmp_path, monkeypatch):
    file = copied(home / ACCESS_FILE, tmp_path)
    for key, words in (("", "is empty"), (" ", "is empty"), ("ed25519-public:12", "is cut off or altered")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"key": key}))
        with pytest.raises(UsageError, match=f"the key of the access file {file} {words}"):
            find_access(file=file)
        assert words in complaint(cli("campaigns", "--access", file, home=far), 2)
    for key, words in (("", "is empty"), ("ed25519-private:0", "is cut off or altered")):
        monkeypatch.setenv("QUEUE_EVAL_KEY", key)
        for role in ("driver", "worker"):
            with pytest.raises(UsageError, match=rf"the key of \$QUEUE_EVAL_KEY {words}"):
                find_access("redis://host", role=role)
        with pytest.raises(UsageError, match=words):
            read_access(home)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_list_of_modules_is_refused(tmp_path, text):
    refused = complaint(cli("worker", home=tmp_path, QUEUE_EVAL_ALLOW=text), 2)
    assert "QUEUE_EVAL_ALLOW is empty, which allows nothing; name modules in it, or unset it" in refused
