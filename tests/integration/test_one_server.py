"""Two servers never share a folder, and whoever is kept from starting a second one is told why."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from queue_eval import Evaluator
from queue_eval.errors import ServerRefusedError, ServerUnreachableError
from queue_eval.machine import machine_id
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import revive_server, server_state, start_server, stop_server
from queue_eval.server.lock import Holder, processes_of
from queue_eval.transport.wire import Wire
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import ROOT
from tests.support.namespaces import OTHER_NAME, OTHER_PIDS, python, queue_eval, run_inside, start_inside
from tests.support.processes import Started
from tests.support.waiting import wait_until

HIDDEN = "in another container or namespace of process ids of this machine, as process"

START = (
    "import sys; from queue_eval.server.lifecycle import start_server; start_server(sys.argv[1], keep=True)"
)
OPEN = "import sys; from queue_eval.server.lifecycle import open_access; open_access(home=sys.argv[1])"
REVIVE = "import sys; from queue_eval.server.lifecycle import revive_server; revive_server(sys.argv[1])"
HALF = """
import sys, time
from queue_eval.server import process as server_process
def half(*_):
    print("half", flush=True)
    time.sleep(600)
server_process.POINT = half
from queue_eval.server.lifecycle import start_server
start_server(sys.argv[1])
"""
"""A starter that comes as far as POINT and no further."""


@pytest.fixture
def home(own_home: Path) -> Path:
    start_server(own_home, keep=True)
    return own_home


@pytest.fixture
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The file system says that it has no locks: to this process, and to those with this environment."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_):\n"
        "    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))\n"
        "fcntl.flock = flock\n"
    )

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    return {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}


def run(command: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def answers(home: Path) -> bool:
    """Whether a server that can be reached by this home's socket knows its password."""
    record = ServerHome(home).read()
    assert record is not None
    try:
        with Wire(record.socket, record.password) as wire:
            return wire.call("PING") == b"PONG"
    except OSError:
        return False


def is_untouched(home: Path, pid: int | None) -> bool:
    record = ServerHome(home).read()
    assert record is not None
    return record.phase == "running" and answers(home) and processes_of(ServerHome(home)) == [pid]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(lambda home: queue_eval("server", "start", "--home", home), id="start"),
        pytest.param(lambda home: queue_eval("server", "stop", "--home", home), id="stop"),
        pytest.param(lambda home: python(REVIVE, home), id="revive"),
        pytest.param(lambda home: python(OPEN, home), id="driver"),
    ],
)
@pytest.mark.parametrize("flags", [OTHER_PIDS, OTHER_PIDS + OTHER_NAME], ids=["same-name", "other-name"])
def test_who_does_not_see_the_server_leaves_it_alone(home: Path, command, flags) -> None:
    """Its home and its host's name are shared, process ids are not."""
    pid = server_state(home).pid
    done = run_inside(flags, *command(home))
    assert done.returncode != 0
    assert f"{HIDDEN} {pid}" in done.stderr
    assert is_untouched(home, pid)
    status = run_inside(flags, *queue_eval("server", "status", "--home", home))
    assert status.returncode == 0, status.stdout


def test_a_crash_is_seen_from_everywhere(home: Path) -> None:
    """By whoever shares the file system: the lock tells."""
    pid = server_state(home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_state(home).state == "crashed")
    code = REVIVE + "; print('revived')"
    done = run_inside(OTHER_PIDS, *python(code, home))
    assert done.stdout == "revived\n", done.stderr


def test_a_hidden_servers_end_lets_others_start(home: Path) -> None:
    """One that was started in a namespace, which ends with all that is in it."""
    stop_server(home)
    code = START + "; print('up', flush=True); sys.stdin.read()"
    with start_inside(OTHER_PIDS, *python(code, home)) as there:
        assert there.stdout is not None
        assert there.stdout.readline() == "up\n"
        # From here it can be seen, and by name of another machine it is known.
        pid = server_state(home).pid
        assert pid is not None
        done = run_inside(OTHER_PIDS, *queue_eval("server", "start", "--home", home))
        assert HIDDEN in done.stderr
        assert server_state(home).pid == pid
        there.kill()
    wait_until(lambda: server_state(home).state == "crashed")
    start_server(home)
    assert answers(home)


def test_two_that_cannot_see_each_other_start_at_once(home: Path) -> None:
    stop_server(home)
    code = START + "; print('up', flush=True); sys.stdin.read()"
    starters = [start_inside(OTHER_PIDS, *python(code, home)) for _ in range(2)]
    try:
        said = [starter.stdout.readline() for starter in starters if starter.stdout is not None]
        assert sorted(said) == ["", "up\n"]
        (refused,) = [starter for starter, line in zip(starters, said, strict=True) if not line]
        assert HIDDEN in refused.communicate()[1]
        assert len(processes_of(ServerHome(home))) == 1
    finally:
        for starter in starters:
            starter.kill()
            starter.communicate()
        wait_until(lambda: server_state(home).state == "crashed")


@pytest.mark.parametrize("flags", [OTHER_NAME, OTHER_PIDS + OTHER_NAME])
def test_the_name_of_the_host_is_nobodys_business(home: Path, flags) -> None:
    """A laptop has another one in another network."""
    name = ("sh", "-c", 'hostname somewhere-else && exec "$@"', "sh")
    pid = server_state(home).pid
    if flags == OTHER_NAME:
        done = run_inside(flags, *name, *queue_eval("server", "start", "--home", home))
        assert "already running" in done.stdout, done.stderr
        assert is_untouched(home, pid)
        assert run_inside(flags, *name, *queue_eval("server", "stop", "--home", home)).returncode == 0
        assert server_state(home).state == "stopped"
        assert run_inside(flags, *name, *queue_eval("server", "start", "--home", home)).returncode == 0
        os.kill(server_state(home).pid or 0, signal.SIGKILL)
        wait_until(lambda: server_state(home).state == "crashed")
        assert revive_server(home) is not None
    else:
        done = run_inside(flags, *name, *queue_eval("server", "stop", "--home", home))
        assert f"{HIDDEN} {pid}" in done.stderr
        assert is_untouched(home, pid)


def test_a_name_of_before_does_not_lock_out_its_owner(home: Path) -> None:
    """Also for what an older version has recorded, which knew machines by their names only."""
    files = ServerHome(home)
    record = files.read()
    assert record is not None
    text = files.record_file.read_text().replace(f'"{record.node}"', '"was-called-so"')
    files.record_file.write_text(text)
    pid = server_state(home).pid
    assert pid is not None
    start_server(home)
    assert is_untouched(home, pid)
    files.alive_file.write_text("")
    assert server_state(home).pid == pid
    assert stop_server(home)


# Without locks --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_without_locks_the_file_tells(own_home: Path, no_locks: dict[str, str]) -> None:
    home = own_home
    start = queue_eval("server", "start", "--home", home)
    assert "server started" in run(start, no_locks).stdout
    pid = server_state(home).pid
    assert "already running" in run(start, no_locks).stdout
    for words in ("start", "stop"):
        done = run_inside(OTHER_PIDS, *queue_eval("server", words, "--home", home), **no_locks)
        assert f"{HIDDEN} {pid}" in done.stderr
        assert f"if no such process is there any more, remove {home}/server.alive" in done.stderr
    assert is_untouched(home, pid)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server_state(home).pid is None)
    # Who sees that it is dead may start; who does not must be told by somebody.
    assert "remove" in run_inside(OTHER_PIDS, *start, **no_locks).stderr
    assert "server started" in run(start, no_locks).stdout
    assert "server stopped" in run(queue_eval("server", "stop", "--home", home), no_locks).stdout
    assert (home / "server.alive").read_text() == ""
    # One that was stopped holds nobody up. This one ends with its namespace, and nobody sees that.
    assert run_inside(OTHER_PIDS, *start, **no_locks).returncode == 0
    with pytest.raises(ServerUnreachableError, match=f"remove {home}/server.alive"):
        start_server(home)
    (home / "server.alive").unlink()
    assert start_server(home)


@pytest.mark.parametrize("has_locks", [True, False], ids=["locks", "no-locks"])
@pytest.mark.parametrize("point", ["check_alone", "_launch", "wait_for_answer"])
def test_a_killed_starter_blocks_nobody(
    own_home: Path, request: pytest.FixtureRequest, has_locks: bool, point: str
) -> None:  # fmt: skip
    environment = {} if has_locks else request.getfixturevalue("no_locks")
    command = python(HALF.replace("POINT", point), own_home)
    with Started(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "half\n"
        starter.kill()
    started = run(queue_eval("server", "start", "--home", own_home), environment)
    assert started.returncode == 0, started.stderr
    assert is_untouched(own_home, server_state(own_home).pid)


# Copies, and files that go away ---------------------------------------------------------------------------


def test_a_copy_elsewhere_is_a_server_of_its_own(home: Path) -> None:
    pid = server_state(home).pid
    copy = home.with_name("copy")
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*.sock"))
    try:
        assert server_state(copy).state == "crashed"
        access = start_server(copy)
        assert str(copy) in access.url
        assert server_state(copy).pid != pid
        assert is_untouched(home, pid)
        assert stop_server(copy)
        assert is_untouched(home, pid)
    finally:
        stop_server(copy)


def test_a_copy_in_its_place_does_not_start_beside_it(home: Path) -> None:
    """A home that was restored while its server lived."""
    pid = server_state(home).pid
    before = home.with_name("before")
    home.rename(before)
    shutil.copytree(before, home, ignore=shutil.ignore_patterns("*.sock"))
    with pytest.raises(ServerRefusedError, match=f"process {pid} is a server of a folder that was at {home}"):
        start_server(home)
    with pytest.raises(ServerRefusedError, match=f"process {pid} is a server of a folder that was at {home}"):
        stop_server(home)
    assert (server_state(before).pid, answers(before)) == (pid, True)
    shutil.rmtree(home)
    # Where it is now it is known.
    assert start_server(before)
    assert stop_server(before)
    before.rename(home)


@pytest.mark.parametrize("has_locks", [True, False], ids=["locks", "no-locks"])
@pytest.mark.parametrize("command", ["start", "stop"])
def test_who_removes_the_file_starts_no_second_server(
    own_home: Path, request: pytest.FixtureRequest, command: str, has_locks: bool
) -> None:  # fmt: skip
    """Without locks we tell users to remove it, when nobody lives who has it."""
    environment = {} if has_locks else request.getfixturevalue("no_locks")
    home = own_home
    start_server(home, keep=True)
    pid = server_state(home).pid
    assert pid is not None
    ServerHome(home).alive_file.unlink()
    done = run_inside(OTHER_PIDS, *queue_eval("server", command, "--home", home), **environment)
    assert done.returncode != 0
    assert f"a server answers at {home}/server.sock" in done.stderr
    assert (answers(home), server_state(home).state) == (True, "running")
    # Who sees it knows it by its pid file.
    start_server(home)
    assert (answers(home), server_state(home).pid) == (True, pid)
    if command == "start":
        # Without that, too, it is told of, and left alone.
        ServerHome(home).pid_file.unlink()
        for act in (start_server, stop_server):
            with pytest.raises(ServerRefusedError, match=f"process {pid} is a server of {home}, though"):
                act(home)
        assert answers(home)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid))
    else:
        assert stop_server(home)
        assert not is_running(pid)
    start_server(home)
    assert answers(home)
    assert server_state(home).pid != pid


@pytest.mark.parametrize(
    ("is_killed", "act"), [(True, revive_server), (True, stop_server), (False, stop_server)]
)
def test_forks_of_a_dead_server_are_ended(home: Path, is_killed, act) -> None:
    """It was rewriting its log, which takes minutes when that is large."""
    record = ServerHome(home).read()
    assert record is not None
    with Wire(record.socket, record.password) as wire:
        wire.call("SET", "k", "v")
        wire.call("CONFIG", "SET", "rdb-key-save-delay", "100000000")
        wire.call("BGREWRITEAOF")
    pid = server_state(home).pid
    assert pid is not None
    (fork,) = wait_until(psutil.Process(pid).children)
    if is_killed:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server_state(home).state == "crashed")
        assert fork.is_running()
    if act is revive_server:
        assert revive_server(home) is not None
    else:
        assert stop_server(home) is not is_killed
        assert server_state(home).state == "stopped"
        assert stop_server(home) is False
        start_server(home)
    wait_until(lambda: not is_running(fork.pid))
    assert is_untouched(home, server_state(home).pid)


@pytest.mark.parametrize("act", [start_server, revive_server, stop_server])
def test_a_socket_that_is_gone(home: Path, act, caplog: pytest.LogCaptureFixture) -> None:
    pid = server_state(home).pid
    (home / "server.sock").unlink()
    assert act(home)
    if act is stop_server:
        assert server_state(home).state == "stopped"
        assert start_server(home)
    else:
        assert f"the socket of the server of {home} was removed; the server is started anew" in caplog.text
    assert server_state(home).pid != pid
    assert is_untouched(home, server_state(home).pid)


def test_one_of_another_machine(home: Path) -> None:
    """As a shared file system shows it: the lock is held, and by whom stands in the file."""
    files = ServerHome(home)
    holder = Holder.parse(files.alive_file.read_bytes())
    assert holder is not None
    assert (holder.machine, holder.pid, holder.role) == (machine_id(), server_state(home).pid, "server")
    config = files.config.rename(home / "moved.conf")
    files.alive_file.write_bytes(Holder("other:1", 77, 1.0, "server", "far-away").encode())
    pid = processes_of(files)[0]
    hidden = python(
        "import sys; from queue_eval.server import lock; lock.processes_of = lambda _: [];"
        "from queue_eval.server.lifecycle import start_server; start_server(sys.argv[1])", home,
    )  # fmt: skip
    assert "runs on far-away, as process 77; use it there" in run(hidden, {}).stderr
    config.rename(files.config)
    assert processes_of(files) == [pid]


def test_words_that_are_no_holder() -> None:
    for text in (b"", b"a b c d e", b"m 1 2.0 other n", b"m 1 2.0 server", b"\xff\xfe", b"m x 1.0 server n"):
        assert Holder.parse(text) is None


# A home that is removed -----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_removed_home_is_told_of_once(
    own_home: Path, tmp_path: Path, campaign: str, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    options = {"home": own_home, "campaign": campaign, "local_workers": False}
    driver = Evaluator.create("tests.support.fault_functions:work", "process", options)
    worker = subprocess.Popen(
        [*queue_eval("worker", "--home", own_home, "--lease", "1s")], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        driver.submit([{"x": 7, "log": str(tmp_path / "side.log"), "gate": str(tmp_path / "gate")}])
        wait_until((tmp_path / "side.log").exists)
        pid = server_state(own_home).pid
        assert pid is not None
        shutil.rmtree(own_home)
        with pytest.warns(UserWarning, match=f"the folder {own_home} was removed or replaced") as warned:
            assert driver.gather("ALL", timeout=8.0) == []
        assert len([one for one in warned if "removed" in str(one.message)]) == 1
        # A new one does not start beside it while it is in use.
        with pytest.raises(ServerRefusedError, match=f"process {pid} is a server of a folder that was at"):
            start_server(own_home)
        # Nothing is in the way of the folder, should it come back.
        assert not own_home.exists()
        os.kill(pid, signal.SIGKILL)
        assert driver.gather("ALL", timeout=8.0) == []
        assert caplog.text.count(f"the folder {own_home} was removed, and the campaign with it") == 1
    finally:
        driver.close()
        worker.kill()
        _, said = worker.communicate()
    assert said.count("was removed or replaced") == 1


@pytest.mark.long
def test_the_server_of_a_removed_home_ends(own_home: Path) -> None:
    """When nobody is connected any more; a start waits for that."""
    start_server(own_home)
    pid = server_state(own_home).pid
    assert pid is not None
    record = ServerHome(own_home).read()
    assert record is not None
    with Wire(record.socket, record.password) as wire:
        shutil.rmtree(own_home)
        assert not wire.closed_within(5.0)
    start_server(own_home)
    assert not is_running(pid)
    assert is_untouched(own_home, server_state(own_home).pid)
