"""Commands that change campaigns and workers, on a real server; at a terminal, too."""

from __future__ import annotations

import pytest

from queue_eval import keys
from queue_eval.states import State
from tests.support.cli import Filled, cli, cli_here, complaint, document, filled_campaign, on_terminal


@pytest.fixture
def filled(server, campaign):
    with filled_campaign(server, campaign) as filled:
        yield filled


def test_cancel_some_and_all(filled, server, campaign):
    assert cli("cancel", campaign, 5, 3, home=server).stdout.startswith("1 job of")
    assert document(cli("cancel", campaign, "--json", home=server)) == {"campaign": campaign, "cancelled": 3}
    assert filled.queue.snapshot().outstanding == 0
    assert document(cli_here("cancel", campaign, "--json", home=server))["cancelled"] == 0


def test_retry_some_and_all_failed(filled, server, campaign):
    assert cli("retry", campaign, 8, 1, home=server).stdout.startswith("1 job of")
    assert document(cli("retry", campaign, "--json", home=server)) == {"campaign": campaign, "retried": 1}
    counts = filled.queue.snapshot().counts
    assert (counts[State.FAILED], counts[State.CANCELLED], counts[State.PENDING]) == (0, 0, 4)
    shown = document(cli_here("job", campaign, 3, "--json", home=server))
    assert shown["attempts"] == 2, "executions go on counting"


def test_pause_and_resume(filled, server, campaign):
    assert document(cli("pause", campaign, "--json", home=server)) == {
        "campaign": campaign, "paused": True, "changed": True,
    }  # fmt: skip
    assert filled.queue.snapshot().paused
    assert "already paused" in cli("pause", campaign, home=server).stdout
    assert document(cli_here("status", campaign, "--json", home=server))["time_left_s"] is None
    assert cli("resume", campaign, home=server).returncode == 0
    assert not filled.queue.snapshot().paused


def test_purge_asks(server, campaign):
    filled = Filled(server, campaign)
    filled.submit({"x": 1})
    assert "--yes" in complaint(cli("purge", campaign, home=server), 2)
    assert "nothing was deleted" in on_terminal("purge", campaign, home=server, typed="n\n", status=1)
    assert filled.queue.snapshot().last_id == 1
    on_terminal("purge", campaign, home=server, typed="y\n", status=0)
    complaint(cli_here("status", campaign, home=server), 1)
    filled.link.close()


def test_colours_on_a_terminal_only(filled, server, campaign, monkeypatch):
    assert "\x1b[32m" in on_terminal("jobs", campaign, home=server, typed="", status=0)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal("jobs", campaign, home=server, typed="", status=0)


def test_workers_and_drain(filled, server):
    filled.register("box-9", campaigns=["a", "b"], slots=2)
    filled.link.call(lambda client: client.zadd(keys.WORKERS, {"box-gone": 1}))
    found = {worker["name"]: worker for worker in document(cli("workers", "--json", home=server))}
    assert "box-gone" not in found
    assert (found["box-9"]["slots"], found["box-9"]["campaigns"]) == (2, ["a", "b"])
    assert any(line.split()[0] == "box-9" for line in cli("workers", home=server).stdout.splitlines())
    assert "no live worker 'box-gone'" in complaint(
        cli("workers", "stop", "box-9", "box-gone", home=server), 1
    )
    assert not filled.link.call(lambda client: client.sismember(keys.DRAIN, "box-9"))
    assert document(cli("workers", "--home", server, "stop", "box-9", "--json")) == {"draining": ["box-9"]}
    assert filled.link.call(lambda client: client.sismember(keys.DRAIN, "box-9"))
    (_, notice), *_ = filled.link.call(lambda client: client.xrevrange(keys.NOTICES, count=1))
    assert notice == {b"what": b"drain", b"worker": b"box-9"}
    filled.deregister("box-9")
