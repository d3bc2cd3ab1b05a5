"""A home that came with a folder may do nothing: it is not used, and no link in it is followed."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.errors import UsageError
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access, write_access
from queue_eval.transport.known_homes import adopt, is_known, state_folder
from queue_eval.transport.private_home import make_home
from tests.conftest import end_processes_of
from tests.support.cli import cli, cli_here, complaint
from tests.support.foreign_listener import UID, needs_accounts

HOSTILE = "redis://:theirs@127.0.0.1:1"


def run(config: dict[str, int]) -> int:
    return config["x"]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder, with a state folder of its own; what runs for its home ends with the test."""
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/state")
        project = Path(folder) / "project"
        project.mkdir()
        monkeypatch.chdir(project)
        home = project / ".queue_eval"
        yield project
        if home.is_dir() and not home.is_symlink():
            end_processes_of(home)


def cloned(home: Path) -> Path:
    """A home that came with a repository: another one's server and key, of right owner and mode."""
    home.mkdir(mode=0o700)
    write_access(home, HOSTILE, b"theirs")
    return home


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_unknown_home_of_the_working_folder_is_not_used(project: Path) -> None:
    home = cloned(project / ".queue_eval")
    before = content(home)
    remedy = rf"{home} is not known as a home of yours: .*queue-eval server status --home {home};"
    for act in (
        find_access, start_server, stop_server,
        lambda: find_access("redis://127.0.0.1:1"),  # the key would be theirs
        lambda: Evaluator.create(run, method="thread", method_kwargs={}),
        lambda: Evaluator.attach("c"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=remedy):
            act()
    for words in (("worker",), ("server", "start"), ("server", "status"), ("campaigns",)):
        assert "is not known as a home of yours" in complaint(cli(*words, cwd=project), 2)
    assert content(home) == before


def test_an_id_that_is_recorded_nowhere_makes_no_home_known(project: Path) -> None:
    home = cloned(project / ".queue_eval")
    outside = state_folder().parent / "outside"
    outside.parent.mkdir(parents=True)
    outside.touch()
    for planted in ("0" * 32, "../outside", "", "0" * 31 + "\n"):
        (home / "home.id").write_text(planted)
        (home / "home.id").chmod(0o600)
        with pytest.raises(UsageError, match="is not known as a home of yours"):
            find_access()


def test_a_home_that_we_have_made_is_known(project: Path) -> None:
    start_server()
    home = project / ".queue_eval"
    try:
        assert is_known(home)
        assert find_access() == find_access(None, home)
    finally:
        stop_server()
    moved = project / "elsewhere"
    moved.mkdir()
    home.rename(moved / ".queue_eval")
    os.chdir(moved)
    assert find_access() is not None
    shutil.rmtree(state_folder())
    with pytest.raises(UsageError, match="is not known as a home of yours"):
        find_access()


@pytest.mark.parametrize("way", ["home", "environment", "command"])
def test_a_home_that_the_user_names_is_known_from_then_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also one of an earlier build, which has no id."""
    home = project / ".queue_eval"
    start_server()
    stop_server()
    (home / "home.id").unlink()
    with pytest.raises(UsageError, match="is not known as a home of yours"):
        find_access()
    if way == "home":
        assert find_access(None, ".queue_eval") is not None
    elif way == "environment":
        with monkeypatch.context() as patch:
            patch.setenv("QUEUE_EVAL_HOME", str(home))
            assert find_access() is not None
    else:
        assert cli("server", "status", "--home", ".queue_eval", cwd=project).returncode == 1
    assert find_access() is not None


@pytest.mark.parametrize("kept", ["server", "access file", "logs"])
def test_the_command_of_the_refusal_adopts(project: Path, kept: str) -> None:
    """Of an earlier build: a server's home, one for a copied access file, one of local workers with `url`."""
    home = project / ".queue_eval"
    if kept == "server":
        start_server()
        stop_server()
        (home / "home.id").unlink()
    else:
        home.mkdir(mode=0o700)
        if kept == "logs":
            (home / "logs").mkdir(mode=0o755)
        else:
            write_access(home, "redis://127.0.0.1:1", b"own")
    with pytest.raises(UsageError) as refusal:
        find_access("redis://127.0.0.1:1")
    assert "naming it by --home or QUEUE_EVAL_HOME does the same" in str(refusal.value)
    command = str(refusal.value).partition("adopt it with: queue-eval ")[2].partition(";")[0]
    done = cli(*shlex.split(command), cwd=project)
    assert (done.returncode, done.stderr) == (1, ""), "as no server runs there, and none is started"
    assert find_access("redis://127.0.0.1:1") is not None


def test_a_home_that_is_gone_is_forgotten_half_a_year_after_its_last_use(project: Path) -> None:
    gone, moved, late = (project / name for name in ("gone", "moved", "late"))
    for home in (gone, moved, late):
        make_home(home)
        (home / "launch.key").touch(mode=0o600)
    records = {path.read_text().strip(): path for path in state_folder().iterdir()}
    (state_folder() / "not-ours").write_text("a marker")
    os.utime(state_folder() / "not-ours", (1e9, 1e9))
    moved = moved.rename(project / ".queue_eval")
    for record in records.values():
        os.utime(record, (1e9, 1e9))
    shutil.rmtree(gone)
    assert find_access() is None  # .queue_eval is in use
    make_home(project / "another")
    found = {path.read_text().strip() for path in state_folder().iterdir()}
    assert found == {str(path) for path in (moved, late, project / "another")} | {"a marker"}


def test_a_working_folder_may_not_lead_to_a_home_elsewhere(project: Path) -> None:
    elsewhere = project.parent / "home"
    make_home(elsewhere)
    (project / ".queue_eval").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a symbolic link, which is not followed"):
        find_access()
    assert find_access(None, elsewhere) is None


def test_where_nothing_can_be_recorded_a_home_must_be_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (project / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "file"))
    home = project / ".queue_eval"
    with pytest.raises(UsageError, match=r"would not be known again, as .*set XDG_STATE_HOME to"):
        start_server()
    assert not home.exists()
    start_server(home)
    stop_server(home)
    (warning,) = caplog.messages
    assert f"{home} will not be known again, as" in warning
    with pytest.raises(UsageError, match=r"nobody knows whose home .*set XDG_STATE_HOME to"):
        find_access()
    assert find_access(None, home) is not None


@pytest.mark.parametrize(
    "name",
    [
        "access.json", "server.json", "server.conf", "server.alive", "server.lock", "server.pid", "home.id",
        "logs", "data", "spool", "logs/server.log", "logs/watcher.log", "spool/w.jsonl", "data/appendonlydir",
        "data/appendonlydir/appendonly.aof.1.incr.aof", ".gitignore", "server.sock",
    ],
)  # fmt: skip
def test_no_link_in_a_home_is_followed(project: Path, name: str) -> None:
    home, outside = project / "home", project / "outside"
    outside.mkdir()
    marker = outside / "marker"
    marker.write_text("{}")
    path = home / name
    path.parent.mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    path.symlink_to(marker if "." in name else outside)
    for act in (start_server, stop_server, find_access):
        with pytest.raises(UsageError, match=rf"{path} is (a symbolic link|no socket)"):
            act(home=home)
    assert f"{path} is" in complaint(cli_here("worker", home=home), 2)
    assert content(outside) == {"marker": b"{}"}
    assert path.is_symlink()


def test_a_record_that_others_can_read_is_refused(own_home: Path) -> None:
    start_server(own_home)
    stop_server(own_home)
    (own_home / "local-access-1.json").touch(0o600)
    for name in ("server.json", "server.conf", "local-access-1.json"):
        (own_home / name).chmod(0o644)
        with pytest.raises(UsageError, match=rf"{name} is open to other users; .*chmod 600 /.*/{name}"):
            start_server(own_home)
        (own_home / name).chmod(0o600)
    os.mkfifo(own_home / "access.pipe")
    with pytest.raises(UsageError, match=r"access\.pipe is neither a file nor a folder"):
        start_server(own_home)
    (own_home / "access.pipe").unlink()  # else nothing of it can be stopped


def test_only_a_socket_of_ours_is_removed(own_home: Path) -> None:
    start_server(own_home)
    stop_server(own_home)
    files = ServerHome(own_home)
    precious = own_home.parent / "queue_eval-0123456789abcdef" / "server.sock"
    precious.parent.mkdir(mode=0o700)
    precious.write_text("precious")
    record = json.loads(files.record_file.read_text())
    files.record_file.write_text(json.dumps(record | {"socket": str(precious)}))
    start_server(own_home)
    stop_server(own_home)
    assert precious.read_text() == "precious"
    (own_home / "server.sock").write_text("precious")
    with pytest.raises(UsageError, match="is no socket"):
        start_server(own_home)
    found = files.read()
    assert found is not None
    files.clean(found)
    assert (own_home / "server.sock").read_text() == "precious"
    (own_home / "server.sock").unlink()


def test_a_home_that_comes_while_one_is_to_be_made_is_not_adopted(project: Path) -> None:
    home = cloned(project / ".queue_eval")
    make_home(home)  # as a driver that has seen no home, and keeps a log now
    with pytest.raises(UsageError, match="is not known as a home of yours"):
        find_access()


def test_beside_a_home_that_exists_nothing_is_made(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the only folder there that its account may write to."""

    def refuse(**_: object) -> str:
        raise PermissionError

    home = project / "home"
    home.mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", refuse)
        make_home(home)
    start_server(home)
    stop_server(home)
    assert is_known(home)


def test_of_many_that_adopt_a_home_at_once_each_knows_it(project: Path) -> None:
    home = cloned(project / ".queue_eval")
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: adopt(home), range(16)))
    assert is_known(home)
    assert sorted(path.name for path in home.iterdir()) == ["access.json", "home.id"]


MAKE = """
import sys
from pathlib import Path
from queue_eval.transport.access import entered_home
from queue_eval.transport.private_home import make_home
print(flush=True)
sys.stdin.readline()
make_home(Path(".queue_eval").resolve())
entered_home()
"""


def test_of_many_that_make_a_home_at_once_each_knows_it(project: Path) -> None:
    root = str(Path(__file__).parents[2])
    makers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", MAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": root}, cwd=project,
        )
        for _ in range(6)
    ]  # fmt: skip
    for maker in makers:
        assert maker.stdout is not None
        maker.stdout.readline()
    for maker in makers:
        maker.communicate("\n", timeout=30)
    assert [maker.returncode for maker in makers] == [0] * len(makers)
    assert [path.name for path in project.iterdir()] == [".queue_eval"]
    assert [path.name for path in state_folder().iterdir()] == [
        (project / ".queue_eval" / "home.id").read_text()
    ]


def test_only_a_record_of_this_account_counts(project: Path) -> None:
    needs_accounts()
    make_home(project / ".queue_eval")
    assert find_access() is None
    (record,) = state_folder().iterdir()
    os.chown(record, UID, UID)
    with pytest.raises(UsageError, match="is not known as a home of yours"):
        find_access()


def test_the_state_folder_of_another_account_is_left_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for root with the $HOME of a user: it would be followed there, and shut the user out."""
    needs_accounts()
    theirs, own = project / "theirs", project / "own"
    theirs.mkdir()
    own.mkdir()
    os.chown(theirs, UID, UID)
    monkeypatch.setenv("HOME", str(theirs))
    account = list(pwd.getpwuid(os.geteuid()))
    for own_home, state_home in ((own, None), (own, theirs), (theirs, None)):
        account[5] = str(own_home)
        found = pwd.struct_passwd(account)
        monkeypatch.setattr(pwd, "getpwuid", lambda _, found=found: found)
        if state_home is None:
            monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_STATE_HOME", str(state_home))
        home = project / ".queue_eval"
        if own_home == own:
            assert state_folder() == own / ".local" / "state" / "queue_eval" / "homes"
            make_home(home)
            assert find_access() is None
            shutil.rmtree(home)
        else:
            with pytest.raises(UsageError, match=r"known again, as .* belongs to another account"):
                start_server()
            assert not home.exists()
    assert list(theirs.iterdir()) == []


def test_a_relative_home_folder_does_not_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be one of the working folder, which may have come with it."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", "home")
    assert state_folder().is_relative_to(pwd.getpwuid(os.geteuid()).pw_dir)
