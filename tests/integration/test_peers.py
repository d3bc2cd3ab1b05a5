"""Whoever listens at a socket is known before anything is sent there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from queue_eval import Evaluator
from queue_eval.errors import ServerRefusedError, ServerUnreachableError
from queue_eval.own_files import IMPORT_ROOT
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.server.watcher import main
from queue_eval.transport.access import Access, read_access
from queue_eval.transport.link import Link
from queue_eval.transport.peers import sole_owner
from queue_eval.transport.wire import ForeignPeerError, Wire, check_peer, peer_uid
from tests.support.cli import cli, complaint
from tests.support.foreign_listener import OTHER_UID, UID, ForeignListener, foreign_listener

WHO = rf"another account \(uid {UID}\) listens at .*; nothing was sent to it"


@pytest.fixture
def intruder(own_home: Path) -> Iterator[ForeignListener]:
    """Another account listens at the socket of a home whose server is stopped."""
    start_server(own_home, keep=True)
    stop_server(own_home)
    with foreign_listener() as listener:
        listener.socket.rename(own_home / "server.sock")
        yield listener
        (own_home / "server.sock").unlink(missing_ok=True)


def run(config: dict[str, int]) -> int:
    return config["x"]


def test_clients_tell_another_account_nothing(own_home: Path, intruder: ForeignListener) -> None:
    access = read_access(own_home)
    assert access is not None
    link = Link(access, name="test")
    with pytest.raises(redis.ConnectionError, match=WHO):
        link.client.ping()
    assert intruder.told() == "nothing"
    with pytest.raises(ServerUnreachableError, match=f"{WHO}; trusted are root, this account"):
        link.check()
    assert intruder.told() == "nothing"
    with pytest.raises(ServerUnreachableError, match=WHO):
        link.call(lambda client: client.ping())
    assert intruder.told() == "nothing"
    link.close()


def test_watchers_tell_another_account_nothing(own_home: Path, intruder: ForeignListener) -> None:
    record = ServerHome(own_home).read()
    assert record is not None
    with pytest.raises(ForeignPeerError, match=WHO):
        Wire(record.socket, record.password)
    assert intruder.told() == "nothing"
    with pytest.raises(ForeignPeerError, match=WHO):
        main(str(own_home), 1.0)
    assert intruder.told() == "nothing"


def test_starters_and_drivers_tell_another_account_nothing(own_home: Path, intruder: ForeignListener) -> None:
    remedy = f"{WHO}; remove .*server.sock, and see who may write to its folder"
    with pytest.raises(ServerRefusedError, match=remedy):
        start_server(own_home)
    assert intruder.told() == "nothing"
    with pytest.raises(ServerRefusedError, match=remedy):
        Evaluator.create(run, method="thread", method_kwargs={"home": str(own_home)})
    assert intruder.told() == "nothing"
    (own_home / "server.sock").unlink()
    start_server(own_home, keep=True)


def test_workers_do_not_serve_another_account(own_home: Path, intruder: ForeignListener) -> None:
    line = complaint(cli("worker", home=own_home), 2)
    assert f"another account (uid {UID}) listens at" in line
    assert intruder.told() == "nothing"


def test_a_running_server_is_stopped_by_a_signal_when_its_socket_is_anothers(own_home: Path) -> None:
    start_server(own_home, keep=True)
    with foreign_listener() as listener:
        listener.socket.replace(own_home / "server.sock")
        assert stop_server(own_home)
        assert listener.told() == "nothing"


def test_the_owner_of_the_folder_that_a_url_names(tmp_path: Path) -> None:
    with foreign_listener() as listener:
        folder = listener.socket.parent

        def told(path: Path, home: Path | None = None) -> str:
            """What a client sends there, with a marker for a password, before it gives up."""
            link = Link(Access(f"unix://:marker@{path}", None, home), name="test", reply_timeout_s=0.2)
            with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
                link.client.ping()
            link.close()
            return listener.told()

        assert b"marker" in bytes.fromhex(told(listener.socket))
        assert told(listener.socket, home=folder) == "nothing"  # a home's is never another's
        folder.chmod(0o775)
        assert told(listener.socket) == "nothing"
        folder.chmod(0o755)
        os.chown(folder, OTHER_UID, OTHER_UID)
        assert told(listener.socket) == "nothing"
        os.chown(folder, UID, UID)
        everybodys = tmp_path / "everybodys"
        everybodys.mkdir()
        everybodys.chmod(0o1777)
        (everybodys / "link").symlink_to(folder)
        assert told(everybodys / "link" / "sock") == "nothing"


def test_this_account_may_listen_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as line:
        listener.bind("sock")
        listener.listen()
        line.connect("sock")
        assert peer_uid(line) == os.geteuid()
        check_peer(line, "sock")


CONNECT = """
import os, socket, sys
sys.path.append(sys.argv[1])
from queue_eval.transport import wire
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    wire.Wire(sys.argv[3], "marker", 0.2)
except wire.ForeignPeerError:
    print("foreign")
except TimeoutError:
    print("trusted")
"""


@pytest.mark.parametrize(
    ("client", "listens", "verdict"),
    [(UID, 0, "trusted"), (UID, UID, "trusted"), (UID, OTHER_UID, "foreign")],
    ids=["root", "itself", "another"],
)
def test_an_account_trusts_root_and_itself(client: int, listens: int, verdict: str) -> None:
    with foreign_listener(listens) as listener:
        command = [sys.executable, "-I", "-S", "-c", CONNECT, IMPORT_ROOT]
        done = subprocess.run(
            [*command, str(client), str(listener.socket)], capture_output=True, text=True, check=True,
            timeout=30,
        )  # fmt: skip
        assert done.stdout.strip() == verdict
        assert (listener.told() == "nothing") == (verdict == "foreign")


def test_links_that_go_round_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        sole_owner(tmp_path / "a" / "sock")
