"""queue-eval logs, and what `job` shows of a running job."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from queue_eval import Evaluator
from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.model.moves import Printed, Settlement
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import start_server
from tests.support import printing_jobs
from tests.support.cli import cli_here, complaint, document, start_cli
from tests.support.fault_fleet import kill_server
from tests.support.waiting import wait_until


def tell(filled, job, total, text, attempt=1):
    assert filled.queue.tell("box-1", [Printed(job, attempt, "", total, text)]) == [True]


def shown(server, *words):
    done = cli_here("logs", *words, home=server)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def settle(filled, job, output, outcome=Outcome.OK, attempt=1):
    filled.settle(Settlement(job, attempt, outcome, 20.0, 0.0, "5eed", b"1", output))


def test_a_running_job_and_one_that_has_ended(server, campaign, filled):
    filled.submit({"x": 1}, {"x": 2})
    filled.settle(room=2)
    tell(filled, 1, 16, b"one\n\x1b[31mtwo\x1b[0m")
    tell(filled, 2, 1000, b"cut\n")
    assert shown(server, campaign, 2) == ["[… 996 bytes not shown]", "cut"]
    assert shown(server, campaign, 1) == ["one", "two"]
    settle(filled, 2, b"begin\ncut\n")
    assert shown(server, campaign, 2) == ["begin", "cut"]


def test_several_jobs_have_their_ids_in_front(server, campaign, filled):
    filled.submit(*({"x": x} for x in range(10)))
    filled.settle(room=10)
    tell(filled, 2, 9, b"one\ntwo\nt")
    tell(filled, 10, 6, b"other\n")
    assert shown(server, campaign) == [" 2 | one", " 2 | two", " 2 | t", "10 | other"]
    assert shown(server, campaign, 10, 3, 2, "--lines", 1) == ["10 | other", " 2 | t"]


def test_each_attempt_has_a_heading(server, campaign, filled):
    filled.submit({"x": 1})
    filled.run(1, Outcome.ERROR, "ValueError", "first try\n")
    filled.settle(room=1)
    assert shown(server, campaign, 1) == ["first try"]
    tell(filled, 1, 11, b"second try\n", attempt=2)
    assert shown(server, campaign, 1) == ["attempt 1:", "first try", "attempt 2:", "second try"]
    assert shown(server, campaign, 1, "--attempt", 2) == ["second try"]
    assert shown(server, campaign, 1, "--attempt", 1) == ["first try"]
    assert shown(server, campaign, 1, "--lines", 1) == ["second try"]


def test_json(server, campaign, filled):
    filled.submit({"x": 1})
    filled.settle(room=1)
    tell(filled, 1, 9, b"\x1b[1m\xff\n")
    assert document(cli_here("logs", campaign, 1, "--json", home=server)) == {
        "campaign": campaign,
        "output": [{"id": 1, "attempt": 1, "missing": 3, "where": None, "text": "\x1b[1m�\n"}],
    }


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--follow", "--json"), "--follow goes on"),
        (("--attempt", 1), "--attempt is of one job"),
        (("1", "2", "--attempt", 1), "--attempt is of one job"),
        (("7",), "has no job 7"),
    ],
)
def test_wrong_usage(server, campaign, filled, words, what):
    filled.submit({"x": 1}, {"x": 2})
    assert what in complaint(cli_here("logs", campaign, *words, home=server), 2)


def test_nothing_printed(server, campaign, filled):
    filled.submit({"x": 1})
    assert "no running job" in complaint(cli_here("logs", campaign, home=server), 0)
    assert "nothing printed" in complaint(cli_here("logs", campaign, 1, home=server), 0)


def test_job_shows_the_last_lines_of_a_running_job(server, campaign, filled):
    filled.submit({"x": 1})
    filled.settle(room=1)
    text = b"".join(b"line %d\n" % i for i in range(2000))
    tell(filled, 1, len(text), text)
    filled.register("box-1")
    lines = cli_here("job", campaign, 1, home=server).stdout.splitlines()
    assert lines[-11:] == ["last lines of attempt 1:", *(f"  line {i}" for i in range(1990, 2000))]
    (running,) = [line for line in lines if line.startswith("running ")]
    assert "attempt 1" in running
    assert "pid of its worker 77" in running
    told = document(cli_here("job", campaign, 1, "--json", home=server))["running"]
    assert (told["attempt"], told["worker"], told["pid"]) == (1, "box-1", 77)
    assert told["missing"] == len(text) - LIVE_BYTES
    settle(filled, 1, b"")
    assert document(cli_here("job", campaign, 1, "--json", home=server))["running"] is None
    filled.deregister("box-1")


def test_output_of_a_running_job_in_python(server, campaign, filled):
    filled.submit({"x": 1})
    filled.settle(room=1)
    tell(filled, 1, 700, b"so far\n")
    with Evaluator.attach(campaign, home=server, read_only=True) as evaluator:
        (job,) = evaluator.outstanding()
        assert job.output == "so far\n"
        assert [(one.outcome, one.output) for one in job.executions] == [("running", "so far\n")]
        settle(filled, 1, b"all of it\n")
        evaluator.refresh([job])
        assert job.output == "all of it\n"


# --follow


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    # Not `communicate`: it would miss what `readline` has read ahead.
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out.splitlines(), err


def follow(fleet, campaign, *words):
    return start_cli("logs", campaign, "--follow", *words, home=fleet.home, cwd=fleet.folder)


@pytest.mark.parametrize("ids", [(), ("1",)], ids=["all", "one"])
def test_follow_ends_with_the_jobs(fleet, campaign, ids):
    with fleet.driver(campaign, printing_jobs.print_and_wait, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        following = follow(fleet, campaign, *ids)
        fleet.worker("--campaign", campaign)
        first = following.stdout.readline()
        fleet.open_gate()
        status, rest, _ = ended(following)
        prefix = "" if ids else "1 | "
        assert (status, [first.rstrip("\n"), *rest]) == (0, [f"{prefix}first of 1", f"{prefix}last of 1"])


def test_follow_shows_jobs_that_end_between_two_looks(fleet, campaign):
    with fleet.driver(campaign, printing_jobs.print_and_wait, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        following = follow(fleet, campaign)
        fleet.worker("--campaign", campaign, slots=2)
        seen = [following.stdout.readline()]  # it has begun to look
        driver.submit([{"gate": "", "quick": True} for _ in range(3)])
        seen += [following.stdout.readline() for _ in range(6)]
        fleet.open_gate()
        status, rest, _ = ended(following)
        assert (status, rest) == (0, ["1 | last of 1"])
        wanted = [f"{job} | {which} of {job}\n" for job in (2, 3, 4) for which in ("first", "last")]
        assert sorted(seen) == sorted(["1 | first of 1\n", *wanted])


def test_follow_goes_on_when_the_server_was_away(own_fleet, campaign):
    fleet = own_fleet
    with fleet.driver(campaign, printing_jobs.print_rows, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        fleet.worker("--campaign", campaign)
        following = follow(fleet, campaign, "1")
        rows = [following.stdout.readline()]
        kill_server(fleet)
        start_server(fleet.home)
        total = fleet.queue(campaign).live_heads()[1].total
        wait_until(lambda: fleet.queue(campaign).live_heads()[1].total > total)
        fleet.open_gate()
        (job,) = driver.gather("ALL", timeout=30)
        status, rest, _ = ended(following)
        assert status == 0
        assert [*map(str.strip, rows), *rest] == [f"row {row}" for row in range(int(job.result))]


def test_follow_ends_when_the_campaign_is_purged_or_at_ctrl_c(fleet, campaign):
    with fleet.driver(campaign, printing_jobs.print_and_wait, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        fleet.worker("--campaign", campaign)
        following, other = follow(fleet, campaign, "1"), follow(fleet, campaign)
        assert (following.stdout.readline(), other.stdout.readline()) == ("first of 1\n", "1 | first of 1\n")
        os.kill(following.pid, signal.SIGINT)
        assert ended(following) == (130, [], "queue-eval: interrupted\n")
        fleet.queue(campaign).purge()
        status, _, err = ended(other)
        assert status == 1
        assert "purged" in err
