"""The live view: what it shows, what its keys do, a server that goes away; at a terminal and off one."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import start_server
from tests.support.cli import Filled, cli_here, complaint, document, filled_campaign, run_on_terminal
from tests.support.forgery import forge_campaign, forge_workers, unforge_workers
from tests.support.hand_worker import HandWorker
from tests.support.live_view import drive, terminal
from tests.support.marks import long
from tests.support.waiting import wait_until

SIZES = [(80, 24), (200, 50)]


def kill_server(home):
    os.kill(int((home / "server.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def filled(server, campaign):
    with filled_campaign(server, campaign) as filled:
        yield filled


@pytest.mark.parametrize("size", SIZES)
def test_a_failed_job_is_found_opened_and_retried(filled, server, campaign, size):
    async def user(view):
        text = await view.see("1 running   2 succeeded   1 failed   2 pending", "ValueError: second")
        assert text.splitlines()[0].startswith(f"{campaign}  running")
        assert "1 of 4 slots busy" in text
        await view.press("2")
        await view.see("WHAT THEY FAILED OF", 'job 3  {"x": 3}')
        await view.press("down", "enter")
        text = await view.see("job 3  of", "Traceback ...", "rest", "2  failed (error)  box-1  began")
        assert text.index("ValueError: second") < text.index("attempts:")
        await view.press("R")
        await view.see("Run job 3 again?", "Traceback ...")
        await view.press("y")
        await view.see(f"1 job of {campaign} retried", "state      pending")
        filled.settle(*(
            Settlement(lease.id, lease.attempt, Outcome.OK, 1.0, 0.0, "s", b"77", b"")
            for lease in filled.settle(room=3)
        ))  # fmt: skip
        await view.see("state      succeeded", "result     77")
        await view.press("escape")
        await view.see("0 failed", "nothing has failed", "77  job")

    drive(server, campaign, user, size=size)


def test_a_group_of_failures_is_retried(server, campaign):
    filled = Filled(server, campaign)
    filled.submit(*({"x": x} for x in range(7)))
    for _ in range(2):  # so many attempts each job has
        leases = filled.settle(room=7)
        filled.settle(*(
            Settlement(lease.id, lease.attempt, Outcome.ERROR, 1.0, 0.0, "s", body.encode(), b"")
            for lease in leases
            for body in ("OSError: [b]no[/b]" if lease.id > 5 else f"ValueError: lr {lease.id}",)
        ))  # fmt: skip

    async def user(view):
        await view.press("2")
        await view.see("5  ValueError: lr #", "2  OSError: [b]no[/b]", "and 2 more")
        await view.press("enter")
        await view.see("job 5  of", "ValueError: lr 5")
        await view.press("escape", "R")
        await view.see("g  its group of 5", "a  all 7 that failed")
        await view.press("g")
        await view.see(f"5 jobs of {campaign} retried", "OSError: [b]no[/b]", without="ValueError: lr #")

    with closing(filled.link):
        drive(server, campaign, user)


def test_nothing_is_done_without_a_yes(filled, server, campaign):
    async def user(view):
        await view.see("1 running")
        for key in "SCRP":
            await view.press(key)
            await view.see("Esc  no", "1 running   2 succeeded")
            await view.press("escape")
            await view.see("nothing was changed", without="Esc  no")

    before = filled.queue.snapshot()
    drive(server, campaign, user)
    assert (filled.queue.snapshot().counts, filled.queue.snapshot().paused) == (before.counts, False)


def test_keys_do_what_the_commands_do(filled, server, campaign):
    async def user(view):
        await view.see("1 running")
        await view.press("P", "y")
        await view.see(f"campaign {campaign} is paused", "paused, 1 still running")
        await view.press("P", "y")
        await view.see(f"campaign {campaign} is going on", without="paused")
        await view.press("S", "j")
        await view.see("asked 1 running job to stop early", "stopping")
        await view.press("D")
        await view.see("choose the worker", "box-1")
        await view.press("D", "y")
        await view.see("asked to drain: box-1")
        await view.press("3", "C", "a")
        await view.see(f"4 jobs of {campaign} cancelled", "0 running", "5 cancelled")

    drive(server, campaign, user)
    assert filled.queue.stops_of([4]) == [False]
    assert filled.link.call(lambda client: client.srem("qe:drain", "box-1")) == 1


def test_jobs_are_filtered_sorted_and_opened_by_their_number(filled, server, campaign):
    async def user(view):
        await view.press("3")
        await view.see("sort: recent", '{"x": 8}', '{"x": 1,')
        await view.press("slash", *"failed", "enter")
        await view.see("only failed", '{"x": 3}', without='{"x": 8}')
        await view.press("slash", "enter")
        await view.see("only failed")
        await view.press("slash", *["backspace"] * 6, *"deep", "enter")
        await view.see("only deep", '{"x": 1,', without='{"x": 3}')
        await view.press("slash", *["backspace"] * 4, *"x>6", "enter")
        await view.see("only x>6", '{"x": 8}', without='{"x": 3}')
        await view.press("slash", *["backspace"] * 3, "enter", "s", "s", "s")
        await view.see("sort: best", "10.5", without="cancelled  ")
        await view.press("g", "8", "enter")
        await view.see("job 8  of", "state      cancelled")
        await view.press("escape", "g", "9", "9", "enter")
        await view.see(f"campaign '{campaign}' has no job 99; its ids are 1 to 8")

    drive(server, campaign, user)


def test_more_jobs_come_when_the_end_is_near(server, campaign):
    filled = Filled(server, campaign)
    filled.submit(*({"x": x} for x in range(450)))

    async def user(view):
        await view.press("3")
        await view.see("450  pending", '{"x": 449}')
        while '{"x": 0}' not in view.text:
            await view.press("end")  # again and again: more rows come below the chosen one

    with closing(filled.link):
        drive(server, campaign, user)


def test_running_jobs_show_what_they_report(filled, server, campaign):
    filled.queue.cancel([4])
    with closing(HandWorker(server, campaign)) as worker:
        lease, _ = worker.lease(2)
        worker.report(lease, *((step, {"loss": 1 / step, "size": 3}) for step in range(1, 9)))

        async def user(view):
            text = await view.see("loss=0.125 step 8", "█▄▂")
            row = next(line for line in text.splitlines() if "loss=" in line)
            assert row.split()[0] == str(lease.id)
            await view.press("s", "s")
            await view.see("sort: best")
            await view.press("enter")
            await view.see("reports of attempt 1, step 8:", "loss  0.125", "size  3")
            worker.report(lease, (9, {"loss": 7.5}))
            await view.see("step 9:", "loss  7.5", "it has printed nothing yet")
            worker.tell(lease, b"epoch 9 begins\n")
            await view.see("output:", "epoch 9 begins")

        drive(server, campaign, user)


def test_the_list_of_campaigns_leads_to_one(filled, server, campaign):
    with filled_campaign(server, f"{campaign}-other"):

        async def user(view):
            await view.see("2 campaigns", campaign, f"{campaign}-other", "4/8")
            await view.press("down", "enter")
            await view.see(f"{campaign}  running", "1 Running 1")
            await view.press("escape")
            await view.see("2 campaigns")

        drive(server, None, user)


def test_a_campaign_that_is_purged_leads_back_to_the_list(server, campaign):
    filled = Filled(server, campaign)
    filled.submit({"x": 1})

    async def user(view):
        await view.see("1 pending")
        filled.queue.purge()
        await view.see("0 campaigns", f"campaign '{campaign}'")

    with closing(filled.link):
        drive(server, campaign, user)


def test_a_server_that_is_away_is_waited_for(own_home, campaign):
    start_server(own_home, keep=True)
    with filled_campaign(own_home, campaign) as filled:

        async def user(view):
            await view.see("2 succeeded")
            kill_server(own_home)
            await view.see("no answer from the server", "2 succeeded")
            start_server(own_home, keep=True)
            await view.see("2 succeeded", without="no answer")
            filled.run(1, Outcome.OK, "1")
            await view.see("3 succeeded")

        drive(own_home, campaign, user)


def test_it_ends_while_the_server_is_away(own_home, campaign):
    start_server(own_home, keep=True)
    filled = Filled(own_home, campaign)
    filled.submit({"x": 1})
    filled.link.close()
    with terminal("top", home=own_home) as user:
        user.see("1 pending")
        kill_server(own_home)
        user.see("no answer from the server")
        user.type("q")
        assert user.end() == 0
    start_server(own_home, keep=True)  # the fixture stops it


@pytest.mark.parametrize("size", [SIZES[0], *long(SIZES[1])])
def test_at_a_terminal_nothing_of_others_is_obeyed(filled, server, campaign, size):
    client = filled.link.client
    forge_campaign(client, campaign)
    names = forge_workers(client, campaign)
    try:
        with terminal("top", campaign, home=server, size=size) as user:
            user.see("1 Running")
            for key, shown in (("2", "WHAT THEY FAILED OF"), ("3", "RESULT"), ("4", "SLOTS")):
                user.type(key)
                user.see(shown)
            user.type("q")
            assert user.end() == 0
    finally:
        unforge_workers(client, names)
    assert b"\x1b]0;FORGED" not in user.seen
    assert rb"\x1b]0;FORGED\x07"[:12] in user.seen


def test_off_a_terminal_it_shows_what_status_and_campaigns_show(filled, server, campaign):
    assert cli_here("top", home=server).stdout.splitlines()[0] == f"campaign   {campaign}"
    shown = document(cli_here("top", campaign, "--json", home=server))
    assert shown.keys() == document(cli_here("status", campaign, "--json", home=server)).keys()
    assert shown["counts"]["failed"] == 1
    with filled_campaign(server, f"{campaign}-other"):
        assert cli_here("top", home=server).stdout == cli_here("campaigns", home=server).stdout
    assert "there is no campaign 'nothing'" in complaint(cli_here("top", "nothing", home=server), 1)


WITHOUT_TEXTUAL = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "textual" else find_spec(name, *more)
from queue_eval.cli import main
main(sys.argv[1:])
"""


def test_without_textual_it_says_what_to_install(filled, server, campaign):
    ended, seen = run_on_terminal(sys.executable, "-c", WITHOUT_TEXTUAL, "top", campaign, home=server)
    assert ended == 0, seen
    assert f"campaign   {campaign}" in seen
    assert seen.endswith("install queue-eval[top] for the live view\r\n")


def test_a_server_that_hangs_is_told_of(own_home, campaign, monkeypatch):
    monkeypatch.setattr("queue_eval.top.app._SILENT_S", 0.2)
    start_server(own_home, keep=True)
    pid = int((own_home / "server.pid").read_text())
    with filled_campaign(own_home, campaign):

        async def user(view):
            await view.see("2 succeeded")
            os.kill(pid, signal.SIGSTOP)
            try:
                await view.see("no answer from the server for", "2 succeeded")
            finally:
                os.kill(pid, signal.SIGCONT)
            await view.see("2 succeeded", without="no answer")

        drive(own_home, campaign, user)


def test_a_worker_tells_how_busy_its_host_is(fleet, campaign):
    """With GPUs, of which an `nvidia-smi` tells that is none."""
    tool = fleet.folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 0, GPU-a, 93, 40000, 80000\necho 1, GPU-b, 5, 0, 80000\n")
    tool.chmod(0o755)
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        path = f"{tool.parent}:{os.environ['PATH']}"
        words = ("--campaign", campaign, "--gpus", "1,0", "-n", "2", "--lease", "900ms")
        fleet.worker(*words, PATH=path)

        def row():
            rows = document(cli_here("status", campaign, "--json", home=fleet.home))["workers"]
            return rows[0] if rows and "gpus" in rows[0] else None

        found = wait_until(row)
        assert found["gpus"] == [
            {"util": 5.0, "memory_used": 0, "memory_total": 80000 * 2**20},
            {"util": 93.0, "memory_used": 40000 * 2**20, "memory_total": 80000 * 2**20},
        ]
        assert 0 < found["memory_used"] < found["memory_total"]
        every = document(cli_here("workers", "--json", home=fleet.home))
        listed = next(one for one in every if one["name"] == found["name"])
        assert (listed["gpus"], listed["load"] >= 0) == (found["gpus"], True)

        async def user(view):
            await view.see("GPUs 49%", "1 of 2 slots busy")
            await view.press("4")
            await view.see("5%/0% 93%/50%", "1/2")

        drive(fleet.home, campaign, user)
        fleet.open_gate()
