"""Commands that change campaigns and workers, on a real server; at a terminal, too."""

from __future__ import annotations

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.registry import live_workers
from queue_eval.model.states import Outcome, State
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
    assert document(cli("retry", campaign, "--json", home=server)) == {
        "campaign": campaign, "retried": 1, "unserved": None,
    }  # fmt: skip
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


@pytest.fixture
def unserved(server, campaign):
    """Some jobs have failed, one waits, and the worker that ran them has left."""
    filled = Filled(server, campaign)
    filled.submit({"x": 1}, {"x": 2}, {"x": 3})
    for _ in range(4):
        filled.run(1, Outcome.ERROR, "no")
    filled.queue.release("box-1", [], leave=True)
    assert filled.queue.snapshot().counts[State.FAILED] == 2
    yield filled
    filled.queue.purge()
    filled.link.close()


def test_that_nobody_serves_it_is_said(unserved, server, campaign, monkeypatch):
    monkeypatch.setattr("queue_eval.cli.checks._MAX_SHOWN_UNSERVED", 10**6)  # those of other tests, too
    start = f"start a worker with: queue-eval worker --campaign {campaign}"
    shown = cli("retry", campaign, 1, home=server)
    assert shown.stdout.splitlines() == [
        f"1 job of {campaign} retried",
        f"2 jobs of campaign '{campaign}' wait, and nobody serves it; {start}",
    ]
    assert start in document(cli("retry", campaign, "--json", home=server))["unserved"]
    assert start in cli_here("resume", campaign, home=server).stdout
    assert start in document(cli_here("resume", campaign, "--json", home=server))["unserved"]
    status = document(cli_here("status", campaign, "--json", home=server))
    assert (status["rate_per_s"] > 0, status["time_left_s"]) == (True, None)
    assert start in status["unserved"]
    assert start in cli_here("status", campaign, home=server).stdout
    checks = document(cli_here("doctor", "--json", home=server))["checks"]
    assert {"status": "warn", "name": f"campaign {campaign}", "detail": status["unserved"]} in checks
    with_home = cli_here("resume", campaign, "--home", server).stdout
    assert f"queue-eval worker --home {server} --campaign {campaign}" in with_home


@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize(("command", "module"), [("status", "views.standing"), ("retry", "views.attendance")])
def test_a_worker_that_ends_meanwhile_does_not_serve(
    unserved, server, campaign, monkeypatch, command, module, reads_first
):  # fmt: skip
    """It is draining, and ends just before or just after the live workers are read."""
    unserved.register("box-7", campaigns=[campaign], state="draining")
    unserved.settle(worker="box-7")  # it attends, and holds nothing

    def read_around_the_end(link):
        found = live_workers(link) if reads_first else []
        unserved.queue.release("box-7", [], leave=True)
        unserved.deregister("box-7")
        return found or live_workers(link)

    assert [one.worker for one in unserved.queue.snapshot().workers] == ["box-7"]
    monkeypatch.setattr(f"queue_eval.{module}.live_workers", read_around_the_end)
    said = document(cli_here(command, campaign, "--json", home=server))["unserved"]
    assert "nobody serves it" in said


def test_a_retry_of_nothing_says_that_nobody_serves_what_waits(unserved, server, campaign):
    unserved.queue.cancel([1, 2])
    unserved.submit({"x": 4})
    while document(cli_here("retry", campaign, "--json", home=server))["retried"]:
        pass
    status = document(cli_here("status", campaign, "--json", home=server))["unserved"]
    assert "nobody serves it" in status
    again = document(cli_here("retry", campaign, "--json", home=server))
    assert again == {"campaign": campaign, "retried": 0, "unserved": status}
    cli_here("pause", campaign, home=server)
    assert document(cli_here("retry", campaign, "--json", home=server))["unserved"] is None


def test_jobs_of_a_paused_campaign_are_retried(unserved, server, campaign):
    cli_here("pause", campaign, home=server)
    assert document(cli_here("status", campaign, "--json", home=server))["unserved"] is None
    paused = f"campaign '{campaign}' is paused; let it go on with: queue-eval resume {campaign}"
    assert paused in cli_here("retry", campaign, 1, home=server).stdout


def test_a_worker_that_leaves_or_refuses_does_not_serve(unserved, server, campaign):
    def said() -> str | None:
        return document(cli_here("status", campaign, "--json", home=server))["unserved"]

    unserved.register("box-7", campaigns=[campaign])
    assert said() is None
    unserved.register("box-7", campaigns=[campaign], state="draining")
    assert "nobody serves it" in said()
    unserved.register("box-7", campaigns=[campaign], refused={campaign: "no such module; install it"})
    assert said() == (
        f"1 job of campaign '{campaign}' waits, and nobody serves it: worker box-7 does not "
        "(no such module; install it); mend that, or start another with: queue-eval worker --campaign "
        f"{campaign}"
    )
    unserved.deregister("box-7")


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
