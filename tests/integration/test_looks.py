"""Commands that only look, after the embedded server has stopped for want of work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from queue_eval.model.states import Outcome
from queue_eval.server import lifecycle as server
from queue_eval.server.home import ServerHome
from queue_eval.server.lifecycle import server_state, start_server, stop_server, wake_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.cli import Filled, cli, cli_here, complaint, document
from tests.support.marks import long
from tests.support.waiting import wait_until

LOOKS = (
    ("campaigns", "--json"), ("status", "c"), ("jobs", "c"), ("job", "c", 1), ("workers",),
    ("explain", "c"), ("explain", "c", 2), ("doctor",), ("export", "c", "--out", "OUT"),
)  # fmt: skip
CHANGES = (("cancel", "c"), ("retry", "c"), ("pause", "c"), ("resume", "c"), ("purge", "c", "--yes"))


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That of a server which has stopped by itself: its one campaign is done."""
    monkeypatch.setenv("QUEUE_EVAL_SERVER_LINGER", "0.5")
    start_server(own_home)
    filled = Filled(own_home, "c")
    filled.submit({"x": 1}, {"x": 2})
    filled.run(1, Outcome.OK, "10")
    for _ in range(2):
        filled.run(1, Outcome.ERROR, "no")
    assert filled.queue.snapshot().outstanding == 0
    filled.link.close()
    wait_stopped(own_home)
    monkeypatch.delenv("QUEUE_EVAL_SERVER_LINGER")
    yield own_home
    stop_server(own_home)


def wait_stopped(home: Path) -> None:
    """Until it has: the state is so while it is being stopped, too, and the record is then written again."""

    def has_stopped() -> bool:
        record = ServerHome(home).read()
        return record is not None and record.phase == "stopped"

    wait_until(has_stopped, timeout_s=60)


def data_of(home: Path) -> dict[str, str]:
    files = sorted(path for path in (home / "data").rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.long
def test_a_look_starts_it_for_as_long_as_it_needs(home: Path, tmp_path: Path) -> None:
    before = data_of(home)
    assert server_state(home).unneeded
    (one,) = document(cli("campaigns", "--json", home=home))
    assert (one["campaign"], one["counts"]["succeeded"], one["counts"]["failed"]) == ("c", 1, 1)
    pid = server_state(home).pid
    assert pid is not None
    for words in LOOKS:
        done = cli_here(*[str(tmp_path / "out.csv") if word == "OUT" else word for word in words], home=home)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert server_state(home).pid == pid, "it is not started for each look"
    wait_stopped(home)
    assert data_of(home) == before
    assert server_state(home).unneeded


@pytest.mark.parametrize("words", [*LOOKS[:3], *long(*LOOKS[3:])], ids=lambda words: words[0])
def test_each_of_them_starts_it(home: Path, tmp_path: Path, words: tuple[object, ...]) -> None:
    done = cli_here(*[str(tmp_path / "out.csv") if word == "OUT" else word for word in words], home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert server_state(home).state == "running"


@pytest.mark.long
def test_it_stays_for_who_has_come_meanwhile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK_LINGER_S", 1.0)
    assert wake_server(home)
    link = Link(find_access(None, home), name="driver")
    (watcher,) = [client for client in link.call(lambda c: c.client_list()) if "watcher" in client["name"]]
    cli_here("status", "c", home=home)
    assert wake_server(home) is False, "it runs"
    with pytest.raises(AssertionError):
        wait_until(lambda: server_state(home).state == "stopped", timeout_s=3.0)
    assert watcher["id"] in [client["id"] for client in link.call(lambda c: c.client_list())]
    link.close()
    wait_stopped(home)


def test_what_changes_a_campaign_does_not_start_it(home: Path) -> None:
    for words in CHANGES:
        line = complaint(cli_here(*words, home=home), 2)
        assert f"the server of {home} is not running (stopped for want of work); start it with:" in line
    assert "not running (stopped for want of work)" in cli_here("server", "status", home=home).stdout
    assert server_state(home).state == "stopped"


def test_one_that_was_stopped_by_hand_stays_so(home: Path) -> None:
    why = f"the server of {home} is not running (stopped);"
    assert not stop_server(home)
    assert why in complaint(cli_here("status", "c", home=home), 2)
    start_server(home, keep=True)
    assert stop_server(home)
    assert why in complaint(cli_here("jobs", "c", home=home), 2)
    assert not wake_server(home)


def test_elsewhere_it_is_said_where_it_ran(home: Path) -> None:
    files = ServerHome(home)
    record = files.read()
    assert record is not None
    files.write(replace(record, node="login-7", host_id="another"))
    line = complaint(cli_here("status", "c", home=home), 2)
    assert "is not running (stopped for want of work; it last ran on login-7); start it with:" in line
    assert server_state(home).state == "stopped"
    files.write(record)


def test_it_is_started_for_its_owner_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert "not running (stopped for want of work)" in complaint(cli_here("status", "c", home=home), 2)
    monkeypatch.undo()
