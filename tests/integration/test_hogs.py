"""Those who leave others nothing of a server: clients that take all connections, and scripts that loop."""

from __future__ import annotations

import io
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from queue_eval import Evaluator
from queue_eval.server import watcher
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.server.process import is_watched
from queue_eval.server.settings import Network
from queue_eval.server.watcher import SCRIPT_LIMIT_VARIABLE, drop_unauthenticated
from queue_eval.transport.access import find_access
from queue_eval.transport.wire import ReplyError
from tests.support.cli import cli, cli_here
from tests.support.homes import record_of, wire_to
from tests.support.waiting import wait_until

READING = "while true do end"
MARKER = "qe:{marker}"
WRITING = f"redis.call('SET', '{MARKER}', '1') while true do end"
NAMED = "BUSY: a script that is not ours keeps it busy; end that with SCRIPT KILL"


def end_watcher(home: Path) -> None:
    """So that nobody but whoever is under test acts."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if str(home) in words and any("server/watcher.py" in word for word in words):
            process.kill()
    wait_until(lambda: not is_watched(ServerHome(home), record_of(home)))


@contextmanager
def full(home: Path) -> Iterator[list[socket.socket]]:
    """Clients that say nothing take all connections there are."""
    record = record_of(home)
    with wire_to(home) as wire:
        wire.call("CONFIG", "SET", "maxclients", "30")
    with ExitStack() as stack:
        clients = []
        while len(clients) < 40:
            client = stack.enter_context(socket.create_connection((record.host, record.port), 5.0))
            clients.append(client)
        # The server takes them in this order; the last one was refused.
        assert b"max number of clients" in clients[-1].recv(100)
        yield clients


@contextmanager
def looping(home: Path, script: str) -> Iterator[list[str]]:
    """A script that does not end by itself, sent with the least rights; what its caller is told at last."""
    url = record_of(home).url_of("worker")
    told: list[str] = []

    def call() -> None:
        try:
            with redis.Redis.from_url(url, protocol=2, socket_timeout=None, retry=None) as client:
                client.eval(script, 1, MARKER)
        except redis.RedisError as error:
            told.append(str(error))

    with wire_to(home) as wire:
        wire.call("CONFIG", "SET", "busy-reply-threshold", "50")
        thread = threading.Thread(target=call)
        thread.start()

        def is_busy() -> bool:
            try:
                wire.call("PING")
            except ReplyError as error:
                return str(error).startswith("BUSY")
            return False

        wait_until(is_busy)
    yield told
    thread.join(20.0)
    assert not thread.is_alive()


@pytest.fixture
def public_home(own_home: Path) -> Path:
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    return own_home


@pytest.mark.long
def test_the_owner_stops_a_server_that_is_full(public_home: Path) -> None:
    end_watcher(public_home)
    with full(public_home):
        with pytest.raises(ReplyError, match="max number of clients"), wire_to(public_home):
            pass
        assert cli("server", "status", home=public_home).returncode == 0
        doctor = cli("doctor", home=public_home)
        assert doctor.returncode == 1
        assert "its connections are all taken" in doctor.stdout
        stopped = cli("server", "stop", home=public_home)
        assert (stopped.returncode, stopped.stderr) == (0, "")
    assert server_state(public_home).state == "stopped"


def test_clients_that_show_no_password_are_dropped(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner comes in again; who has shown one is not dropped, however long it says nothing."""
    monkeypatch.setenv(SCRIPT_LIMIT_VARIABLE, "2")  # the watcher looks the oftener
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    record = record_of(own_home)
    with socket.create_connection((record.host, record.port), 5.0) as known:
        known.sendall(f"AUTH driver {record.driver_password}\r\n".encode())
        assert known.recv(100) == b"+OK\r\n"
        with full(own_home) as clients:
            assert clients[0].recv(100) == b"", "it was dropped"
            wait_until(lambda: can_enter(own_home))
            known.sendall(b"PING\r\n")
            assert known.recv(100) == b"+PONG\r\n"


@pytest.mark.long
def test_who_comes_to_a_full_server_waits_for_a_free_connection(own_home: Path) -> None:
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    with full(own_home):
        done = cli("campaigns", home=own_home)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_socket_whose_connections_are_all_taken(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server's own account comes there; nobody is dropped."""
    monkeypatch.setattr("queue_eval.transport.link.FULL_PATIENCE_S", -4.5)
    start_server(own_home, keep=True)
    with wire_to(own_home) as wire:
        wire.call("CONFIG", "SET", "maxclients", "30")
    with ExitStack() as stack:
        for _ in range(40):
            line = stack.enter_context(socket.socket(socket.AF_UNIX))
            line.connect(record_of(own_home).socket)
        looked = cli_here("campaigns", home=own_home)
        assert stop_server(own_home)
    assert looked.returncode == 2
    assert "all taken: close some, or raise its maxclients" in looked.stderr


def can_enter(home: Path) -> bool:
    try:
        wire_to(home).close()
    except (ReplyError, OSError):
        return False
    return True


def test_clients_have_time_to_show_a_password(public_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_watcher(public_home)
    record = record_of(public_home)
    with (
        wire_to(public_home) as wire,
        wire_to(public_home) as other,
        socket.create_connection((record.host, record.port), 5.0) as stranger,
    ):
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
        assert drop_unauthenticated(wire) == 0
        monkeypatch.setattr(watcher, "_LOGIN_TIMEOUT_S", 0)
        assert drop_unauthenticated(wire) == 1
        assert stranger.recv(100) == b""
        assert other.call("PING") == b"PONG"


def test_doctor_names_a_script_that_loops(own_home: Path) -> None:
    start_server(own_home, keep=True)
    with looping(own_home, READING) as told:
        doctor = cli("doctor", home=own_home)
        with wire_to(own_home) as wire:
            wire.call("SCRIPT", "KILL")
    assert doctor.returncode == 1
    assert NAMED in doctor.stdout
    assert "killed" in told[0]


@pytest.mark.long
def test_a_waiting_driver_names_it_and_the_watcher_ends_it(
    own_home: Path, campaign: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SCRIPT_LIMIT_VARIABLE, "3")
    start_server(own_home, keep=True)
    pid = server_state(own_home).pid
    keywords = {"campaign": campaign, "home": own_home, "local_workers": False}
    with Evaluator.create("math:sqrt", "process", keywords) as driver:
        driver.submit([{}])
        with looping(own_home, READING) as told:
            assert driver.gather("ALL", timeout=8) == []
    assert "killed" in told[0]
    assert NAMED in caplog.text
    assert "server is back" in caplog.text
    assert server_state(own_home).pid == pid
    assert "kept the server busy for 3 s; it was ended" in ServerHome(own_home).watcher_log.read_text()


def test_a_watcher_that_is_gone_is_set_anew_while_a_script_loops(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRIPT_LIMIT_VARIABLE, "1")
    start_server(own_home, keep=True)
    end_watcher(own_home)
    with looping(own_home, READING) as told:
        start_server(own_home, keep=True)
        start_server(own_home, keep=True)
    assert "killed" in told[0]
    with wire_to(own_home) as wire:
        clients = wire.call("CLIENT", "LIST")
    assert clients.count(watcher.NAME.encode()) == 1


@pytest.mark.parametrize("host", ["", "127.0.0.1"], ids=["one-user", "group"])
def test_the_watcher_starts_a_server_anew_whose_script_has_written(
    own_home: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCRIPT_LIMIT_VARIABLE, "0.5")
    access = start_server(own_home, keep=True, network=Network(host, 0 if host else None))
    before = server_state(own_home)
    pid = before.pid
    with wire_to(own_home) as wire:
        for number in range(100):
            wire.call("RPUSH", "list", str(number))
    with looping(own_home, WRITING):
        pass
    wait_until(lambda: server_state(own_home).pid not in (None, pid) and can_enter(own_home))
    wait_until(lambda: record_of(own_home).phase == "running")
    assert find_access(None, own_home) == access
    with wire_to(own_home) as wire:
        assert wire.call("LLEN", "list") == 100
        assert wire.call("GET", MARKER) is None
    after = server_state(own_home)
    assert after.keep
    assert before.started_at is not None
    assert after.started_at is not None
    assert after.started_at > before.started_at
    wait_until(lambda: is_watched(ServerHome(own_home), record_of(own_home)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
def test_a_full_disk_keeps_no_watcher_from_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended where its log took no line, and the script went on."""
    with Path("/dev/full").open("wb", buffering=0) as full_disk:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full_disk, write_through=True))
        watcher.say("a script has kept the server busy")


@pytest.mark.long
def test_a_stuck_server_ends_whose_home_was_removed(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could find it any more."""
    monkeypatch.setenv(SCRIPT_LIMIT_VARIABLE, "1")
    start_server(own_home, keep=True)
    pid = server_state(own_home).pid
    assert pid is not None
    process = psutil.Process(pid)
    try:
        with looping(own_home, WRITING):
            own_home.rename(own_home.with_name("elsewhere"))
            process.wait(20.0)
    finally:
        if process.is_running():
            process.kill()


@pytest.mark.parametrize("script", [READING, WRITING], ids=["reading", "writing"])
def test_the_owner_stops_a_server_whose_script_loops(
    own_home: Path, script: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("queue_eval.server.process.SCRIPT_PATIENCE_S", 0.2)
    start_server(own_home, keep=True)
    end_watcher(own_home)
    with wire_to(own_home) as wire:
        wire.call("SET", "k", "v")
    with looping(own_home, script):
        assert stop_server(own_home)
    assert ("the server is killed" in caplog.text) == (script == WRITING)
    start_server(own_home, keep=True)
    with wire_to(own_home) as wire:
        assert wire.call("GET", "k") == b"v"
