"""A home that exists is refused, or closed to others, before anything is kept there."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.errors import UsageError
from queue_eval.server.lifecycle import revive_server, start_server, stop_server, wake_server
from queue_eval.transport.access import entered_home, read_access
from queue_eval.transport.private_home import make_home
from tests.support.cli import cli, cli_here, complaint, document
from tests.support.foreign_listener import UID, needs_accounts
from tests.support.waiting import wait_until


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run(config: dict[str, int]) -> int:
    return config["x"]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_home_that_others_can_change_is_refused(own_home: Path, mode: int) -> None:
    own_home.mkdir()
    own_home.chmod(mode)
    remedy = rf"{own_home} can be changed by others \(mode .*\); .*chmod 700 {own_home}"
    with pytest.raises(UsageError, match=remedy):
        start_server(own_home)
    with pytest.raises(UsageError, match=remedy):
        Evaluator.create(run, method="thread", method_kwargs={"home": str(own_home)})
    assert "can be changed by others" in complaint(cli_here("server", "start", "--home", own_home), 2)
    assert "can be changed by others" in complaint(cli("worker", home=own_home), 2)
    assert list(own_home.iterdir()) == []
    assert mode_of(own_home) == mode


def test_a_home_that_others_can_look_into_is_closed(own_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_home.mkdir()
    own_home.chmod(0o755)
    start_server(own_home)
    assert mode_of(own_home) == 0o700
    stop_server(own_home)
    own_home.chmod(0o755)  # as an older version has left it
    start_server(own_home)
    assert mode_of(own_home) == 0o700
    said = f"others could look into {own_home} (mode 755); it is closed now (mode 700)"
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [said, said]


def test_a_folder_with_other_things_is_not_closed(own_home: Path) -> None:
    own_home.mkdir()
    own_home.chmod(0o755)
    (own_home / "thesis.tex").touch()
    with pytest.raises(UsageError, match=f"holds more than a home; .*chmod 700 {own_home}"):
        start_server(own_home)
    assert mode_of(own_home) == 0o755
    assert [path.name for path in own_home.iterdir()] == ["thesis.tex"]
    own_home.chmod(0o700)
    start_server(own_home)


def test_a_server_is_not_brought_back_in_an_open_home(own_home: Path) -> None:
    start_server(own_home, keep=True)
    own_home.chmod(0o777)
    (own_home / "server.sock").unlink()
    with pytest.raises(UsageError, match="can be changed by others"):
        revive_server(own_home)
    own_home.chmod(0o700)
    assert revive_server(own_home) is not None


def test_another_accounts_home_is_refused(own_home: Path) -> None:
    needs_accounts()
    start_server(own_home, keep=True)
    os.chown(own_home, UID, UID)
    try:
        for act in (start_server, revive_server, stop_server):
            with pytest.raises(UsageError, match=rf"belongs to another account \(uid {UID}\)"):
                act(own_home)
        assert not wake_server(own_home)
        assert "belongs to another account" in complaint(cli("worker", home=own_home), 2)
        checks = document(cli_here("doctor", "--json", "--home", own_home), 1)["checks"]
        assert {check["name"] for check in checks if check["status"] == "fail"} == {"home", "server"}
    finally:
        os.chown(own_home, 0, 0)


def test_root_takes_no_access_file_of_another_account(own_home: Path) -> None:
    needs_accounts()
    start_server(own_home, keep=True)
    file = own_home / "access.json"
    os.chown(file, UID, UID)
    with pytest.raises(UsageError, match=rf"\(uid {UID}\).*; if you trust it, .*install -m 600 {file} COPY"):
        read_access(own_home)
    assert "belongs to another account" in complaint(cli_here("campaigns", home=own_home), 2)
    os.chown(file, 0, 0)
    assert read_access(own_home) is not None


def test_doctor_warns_of_what_start_closes(own_home: Path) -> None:
    start_server(own_home, keep=True)
    own_home.chmod(0o755)
    checks = document(cli_here("doctor", "--json", "--home", own_home), 0)["checks"]
    (home,) = (check for check in checks if check["name"] == "home")
    assert (home["status"], "others can look into" in home["detail"]) == ("warn", True)


def test_logs_of_local_workers_are_private_and_ignored_by_git(
    server: Path, own_home: Path, campaign: str
) -> None:
    access = read_access(server)
    assert access is not None
    before = os.umask(0o022)
    try:
        with Evaluator.create(
            run, method="thread",
            method_kwargs={
                "url": access.url, "home": str(own_home), "campaign": campaign, "local_workers": True,
            },
        ) as evaluator:  # fmt: skip
            evaluator.submit([{"x": 1}])
            assert [job.result for job in evaluator.gather("ALL")] == [1]
    finally:
        os.umask(before)
    logs = own_home / "logs"
    (log,) = wait_until(lambda: list(logs.iterdir()))
    assert (mode_of(own_home), mode_of(logs), mode_of(log)) == (0o700, 0o700, 0o600)
    assert (own_home / ".gitignore").read_text() == "*\n"
    subprocess.run(["git", "init", "-q", own_home.parent], check=True, capture_output=True)
    seen = subprocess.run(
        ["git", "-C", own_home.parent, "status", "--porcelain"], check=True, capture_output=True, text=True
    )
    assert seen.stdout == ""


def test_the_gate_looks_at_no_log_by_itself(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them, on a shared folder, would cost a driver seconds."""
    make_home(own_home)
    (own_home / "logs").mkdir()
    (own_home / "access.json").touch(mode=0o600)
    (own_home / "logs" / "worker-a.log").touch()
    looked: list[str] = []

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self._entry = entry

        def __getattr__(self, name: str) -> object:
            if name == "stat":
                looked.append(self._entry.name)
            return getattr(self._entry, name)

    scan = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: [Entry(entry) for entry in scan(folder)])
        entered_home(own_home)
    assert sorted(looked) == ["access.json", "home.id"]
