"""A server that comes back with other ways to it: whoever has an access file follows, in bounded time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from queue_eval.campaign.registry import live_workers
from queue_eval.errors import ServerRefusedError, ServerUnreachableError
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import start_server
from queue_eval.transport import link as connection
from queue_eval.transport.access import ACCESS_FILE, Access, find_access, write_access
from queue_eval.transport.link import BlockingClient, Link
from queue_eval.transport.wire import Wire
from tests.support.cli import ROOT
from tests.support.waiting import wait_until


@pytest.fixture
def home(own_home: Path) -> Path:
    start_server(own_home, host="127.0.0.1", port=0, keep=True)
    return own_home


@pytest.fixture
def given(home: Path, tmp_path: Path) -> Path:
    """A copy of the access file, as on another host."""
    file = tmp_path / ACCESS_FILE
    file.write_bytes((home / ACCESS_FILE).read_bytes())
    file.chmod(0o600)
    return file


def change_password(home: Path, password: str) -> str:
    """The URL from now on; connections under the old password are ended."""
    record = ServerHome(home).read()
    with Wire(record.socket, record.password) as wire:
        wire.call("ACL", "SETUSER", "driver", "resetpass", f">{password}")
        wire.call("CLIENT", "KILL", "USER", "driver")
    return record.url.replace(record.driver_password, password)


def in_background(link: Link) -> tuple[threading.Thread, list[object]]:
    replies: list[object] = []

    def ask() -> None:
        try:
            replies.append(link.call(lambda client: client.ping()))
        except Exception as error:
            replies.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, replies


def test_a_new_file_is_followed_by_all_clients_of_a_link(home, given):
    link = Link(find_access(file=given), name="test")
    reader = BlockingClient(link, 5.0)
    assert link.call(lambda client: client.ping())
    assert reader.get().ping()
    before = reader.get()
    write_access(given.parent, change_password(home, "another"), b"other-key")
    assert link.call(lambda client: client.ping())
    assert link.access.key == b"other-key"
    assert reader.get() is not before
    assert reader.get().ping()
    reader.close()
    link.close()


def test_a_file_that_arrives_after_the_refusal_is_waited_for(home, given):
    link = Link(find_access(file=given), name="test")
    link.check()
    url = change_password(home, "another")
    seen = threading.Event()
    link._on_wait = lambda _: seen.set()
    thread, replies = in_background(link)
    assert seen.wait(10)
    given.unlink()  # a shared folder may show no file for a moment
    seen.clear()
    assert seen.wait(10)
    assert not replies
    write_access(given.parent, url, None)
    thread.join(20)
    assert replies == [True]
    link.close()


def test_a_refusal_that_lasts_ends_the_wait(home, given, monkeypatch):
    monkeypatch.setattr(connection, "REFUSED_PATIENCE_S", 0.3)
    link = Link(find_access(file=given), name="test")
    link.check()
    change_password(home, "another")
    with pytest.raises(ServerUnreachableError, match="cannot be used") as caught:
        link.call(lambda client: client.ping())
    assert "another" not in str(caught.value)
    link.close()


@pytest.mark.parametrize("with_file", [True, False])
def test_a_refusal_at_first_is_not_waited_for(home, given, with_file):
    change_password(home, "another")
    access = find_access(file=given)
    link = Link(access if with_file else Access(access.url, None, None), name="test")
    waits: list[float] = []
    link._on_wait = waits.append
    with pytest.raises(ServerUnreachableError, match="check the URL or the access file"):
        link.call(lambda client: client.ping())
    assert waits == []


def test_a_damaged_file_changes_nothing(home, given):
    link = Link(find_access(file=given), name="test")
    link.check()
    given.write_text("{")
    link.client.connection_pool.disconnect()
    record = ServerHome(home).read()
    with Wire(record.socket, record.password) as wire:
        wire.call("CLIENT", "PAUSE", "1")
    assert link.call(lambda client: client.ping())
    assert link.access.url == record.url
    link.close()


def test_what_a_user_may_not_do_is_an_error_at_once(home, given):
    link = Link(find_access(file=given), name="test")
    with pytest.raises(ServerRefusedError, match=r"docs/security\.md"):
        link.call(lambda client: client.flushall())
    assert wait_until(lambda: link.call(lambda client: client.ping()))
    link.close()


IMPATIENT = """
import sys
from queue_eval.transport import link as connection
from queue_eval.cli import main
connection.REFUSED_PATIENCE_S = 1.0
main(sys.argv[1:])
"""


def test_a_worker_that_is_refused_for_long_ends(home, given, tmp_path):
    """It says why, in one line. A worker without work has but its heartbeats to notice."""
    command = [sys.executable, "-P", "-c", IMPATIENT, "worker", "--access", str(given), "--lease", "2s"]
    worker = subprocess.Popen(
        [*command, "--name", "w"], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    link = Link(find_access(home=home), name="test")
    try:
        wait_until(lambda: [one.card.name for one in live_workers(link)] == ["w"], 30)
        link.close()
        # It is on the register a moment before it has begun to serve.
        assert "slots for all campaigns" in worker.stderr.readline()
        change_password(home, "another")
        _, said = worker.communicate(timeout=40)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 2, said
    *_, last = said.splitlines()
    assert last.startswith("queue-eval: the server at redis://")
    assert "cannot be used: invalid username-password pair" in last
    assert "Traceback" not in said
    assert "worker w has ended" in said
