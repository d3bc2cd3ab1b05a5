"""Processes that only name, or read, the files of a home are neither its server nor ended as that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queue_eval.errors import ServerError
from queue_eval.machine import birth_of, born_now, machine_id
from queue_eval.server import open_files
from queue_eval.server import process as server_process
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import server_state, start_server, stop_server
from queue_eval.server.lock import Holder, processes_of
from tests.support.foreign_listener import UID, needs_accounts
from tests.support.waiting import wait_until


@contextmanager
def bystander(code: str, *arguments: object, uid: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for the end, with these arguments on its command line."""
    become = f"import os; os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n" if uid else ""
    code = f"{become}{code}\nimport time\nprint('here', flush=True)\ntime.sleep(600)"
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


READ = "import sys; kept = [open(path) for path in sys.argv[1:]]"
"""As `tail -f` does."""


def test_another_accounts_command_line_stops_no_start(own_home: Path) -> None:
    needs_accounts()
    with bystander("", own_home / "server.conf", uid=UID) as process:
        start_server(own_home, keep=True)
        assert server_state(own_home).state == "running"
        assert stop_server(own_home)
        assert process.poll() is None


def test_who_reads_its_files_stops_no_start_and_is_not_ended(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ServerHome(own_home)
    start_server(own_home, keep=True)
    stop_server(own_home)
    with bystander(READ, files.config, files.alive_file, files.log) as process:
        assert processes_of(files) == []
        start_server(own_home, keep=True)
        assert processes_of(files) == [server_state(own_home).pid]
        assert stop_server(own_home)
        program = tmp_path / "valkey-server"
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
        monkeypatch.setattr(server_process, "server_binary", lambda **_: program)
        with pytest.raises(ServerError, match="did not start"):
            start_server(own_home)
        assert process.poll() is None


def test_a_failed_start_ends_what_it_has_started_and_nothing_older(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older: with its settings on the command line, and its `server.alive` open to write it."""
    files = ServerHome(own_home)
    start_server(own_home, keep=True)
    stop_server(own_home)
    code = "import sys; kept = open(sys.argv[1], 'r+')"
    fails = ServerError("a marker")

    def fail(*_: object) -> None:
        wait_until(lambda: len(processes_of(files)) == 2)
        raise fails

    with bystander(code, files.alive_file, files.config) as process:
        # Births are known to a hundredth of a second, and this interpreter begins as fast.
        wait_until(lambda: birth_of(process.pid) < born_now() - 0.1)
        monkeypatch.setattr(server_process, "check_unnamed", lambda _: None)
        monkeypatch.setattr(server_process, "wait_for_answer", fail)
        with pytest.raises(ServerError, match="did not start"):
            start_server(own_home)
        assert processes_of(files) == [process.pid]


def test_a_process_that_only_the_file_names_is_not_the_server(own_home: Path) -> None:
    files = ServerHome(own_home)
    start_server(own_home, keep=True)
    pid = server_state(own_home).pid
    assert pid is not None
    with bystander(READ, files.alive_file) as process:
        born = birth_of(process.pid)
        forged = Holder(machine_id(), process.pid, born, "server", os.uname().nodename).encode()
        with files.alive_file.open("r+b") as file:
            file.write(forged)
            file.truncate()
        assert server_state(own_home).pid == pid
        (own_home / "server.sock").unlink()
        assert stop_server(own_home)
        assert process.poll() is None
        wait_until(lambda: not processes_of(files))


def test_where_the_system_tells_of_no_open_files_the_program_decides(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, or with fewer capabilities than the server has."""
    files = ServerHome(own_home)
    monkeypatch.setattr(open_files, "_handles", lambda _: None)
    start_server(own_home, keep=True)
    pid = server_state(own_home).pid
    with bystander(READ, files.alive_file, files.config) as process:
        assert processes_of(files) == [pid]
        assert stop_server(own_home)
        start_server(own_home)
        assert process.poll() is None
