"""`queue-eval wait`, on a real server: what it waits for, what it says, and what it runs in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from queue_eval.server.lifecycle import server_state, start_server
from tests.support.cli import Filled, cli_here, complaint, document, on_terminal, start_cli
from tests.support.waiting import wait_until

TOLD = 'env | grep -E "^QUEUE_EVAL_(CAMPAIGN|SUCCEEDED|FAILED|CANCELLED|FIRST_FAILED|STATUS)=" | sort'
"""Prints what a command of --then finds in its environment."""


@pytest.fixture
def filled(server: Path, campaign: str) -> Iterator[Filled]:
    """A campaign without a job, and a worker that serves it."""
    filled = Filled(server, campaign)
    filled.register("box-1")
    yield filled
    filled.deregister("box-1")
    filled.queue.purge()
    filled.link.close()


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def waits(filled: Filled) -> bool:
    """Whether a command blocks on a result stream of this server."""
    clients = filled.link.call(lambda client: client.client_list())
    return any(
        entry["name"] == "queue-eval" and entry["cmd"] == "xread" and "b" in entry["flags"]
        for entry in clients
    )


@pytest.fixture
def started(filled: Filled, server: Path, tmp_path: Path):
    """Starts a wait that has work to wait for, and returns when it blocks."""
    processes = []

    def start(*words: str) -> subprocess.Popen[str]:
        processes.append(start_cli("wait", filled.queue.campaign, *words, home=server, cwd=tmp_path))
        wait_until(lambda: waits(filled))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def settle(filled: Filled, leases: list, outcome: Outcome, body: str) -> None:
    filled.settle(
        *(
            Settlement(lease.id, lease.attempt, outcome, 20.0, time.monotonic(), "", body.encode())
            for lease in leases
        )
    )


def test_it_ends_with_the_last_job_also_of_those_that_were_added(filled, started):
    filled.submit({"x": 1})
    process = started()
    filled.submit({"x": 2})
    filled.run(1, Outcome.OK, "1")
    wait_until(lambda: waits(filled))
    assert process.poll() is None
    filled.run(1, Outcome.OK, "2")
    done = ended(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"campaign {filled.queue.campaign}: 2 succeeded\n"


def test_failed_and_cancelled_jobs_end_it_as_they_end_run(filled, server, campaign):
    filled.submit({"x": 1}, {"x": 2})
    filled.queue.cancel([1])
    filled.run(1, Outcome.OK, "1")
    done = cli_here("wait", campaign, home=server)
    assert (done.returncode, done.stdout) == (1, f"campaign {campaign}: 1 succeeded, 1 cancelled\n")
    assert "1 of 2 jobs were cancelled; run them with: queue-eval retry" in done.stderr
    filled.submit({"x": 3})
    filled.run(1, Outcome.NAN, "nan")
    done = cli_here("wait", campaign, "--json", home=server)
    assert "1 of 3 jobs failed; see why with: queue-eval job" in done.stderr
    assert document(done, 1) == {
        "campaign": campaign, "jobs": 3, "counts": {"succeeded": 1, "failed": 1, "cancelled": 1},
        "outstanding": 0, "first_failed": 3, "timed_out": False,
    }  # fmt: skip


def test_without_jobs_nothing_is_outstanding(filled, server, campaign):
    done = cli_here("wait", campaign, home=server)
    assert (done.returncode, done.stdout) == (0, f"campaign {campaign} has no jobs yet\n")


def test_until_a_job_fails(filled, started, server, campaign):
    filled.submit({"x": 1}, {"x": 2}, {"x": 3})
    process = started("--until", "failed")
    first, second = filled.settle(room=2)
    settle(filled, [first], Outcome.OK, "1")
    wait_until(lambda: waits(filled))
    settle(filled, [second], Outcome.NAN, "nan")
    done = ended(process)
    assert done.returncode == 1
    assert done.stdout == f"campaign {campaign}: 1 succeeded, 1 failed, 1 not finished\n"
    assert f"job {second.id} of campaign {campaign!r} failed; see why with: queue-eval job" in done.stderr
    assert cli_here("wait", campaign, "--until", "failed", home=server).stdout == done.stdout, "failed before"


def test_until_a_job_fails_and_none_does(filled, server, campaign):
    filled.submit({"x": 1})
    filled.run(1, Outcome.OK, "1")
    assert cli_here("wait", campaign, "--until", "failed", home=server).returncode == 0


def test_a_timeout_is_told_apart_and_runs_no_command(filled, server, campaign, tmp_path):
    filled.submit({"x": 1})
    words = ("wait", campaign, "--timeout", "100ms", "--then", f"touch {tmp_path}/ran")
    done = cli_here(*words, home=server)
    assert (done.returncode, done.stdout) == (124, f"campaign {campaign}: 1 not finished\n")
    assert "waited for 100ms in vain: 1 of 1 jobs is not finished" in done.stderr
    assert document(cli_here(*words, "--json", home=server), 124)["timed_out"]
    assert not (tmp_path / "ran").exists()


def test_the_command_is_told_the_counts(filled, server, campaign, started):
    filled.submit({"x": 1}, {"x": 2}, {"x": 3})
    filled.queue.cancel([3])
    process = started("--then", f"{TOLD}; exit 7", "--json")
    filled.run(1, Outcome.NAN, "nan")
    filled.run(1, Outcome.OK, "1")
    done = ended(process)
    assert document(done, 1)["first_failed"] == 1, "its own status goes before that of the command"
    told, last = done.stderr[:-1].rsplit("\n", 1)
    assert told.splitlines() == [
        f"QUEUE_EVAL_CAMPAIGN={campaign}", "QUEUE_EVAL_CANCELLED=1", "QUEUE_EVAL_FAILED=1",
        "QUEUE_EVAL_FIRST_FAILED=1", "QUEUE_EVAL_STATUS=1", "QUEUE_EVAL_SUCCEEDED=1",
    ]  # fmt: skip
    assert last.startswith("queue-eval: 1 of 3 jobs failed")


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_status_of_the_command_counts_if_all_succeeded(filled, server, campaign, command, status):
    done = cli_here("wait", campaign, "--then", command, home=server)
    assert done.returncode == status
    assert done.stderr == (
        f"queue-eval: the command of --then ended with status {status}\n" if status else ""
    )


def test_what_keeps_jobs_waiting_is_said_once(filled, server, campaign):
    filled.submit({"x": 1})
    filled.deregister("box-1")
    unserved = complaint_of_wait(server, campaign)
    assert "1 job of campaign" in unserved
    assert "start a worker with: queue-eval worker" in unserved
    filled.queue.pause(True)
    assert "is paused; let it go on with: queue-eval resume" in complaint_of_wait(server, campaign)


def complaint_of_wait(home: Path, campaign: str) -> str:
    """The only line before that of the timeout; there are several looks."""
    told, _ = cli_here("wait", campaign, "--timeout", "1.2s", home=home).stderr.splitlines()
    return told


def test_a_purge_meanwhile_is_one_error(filled, started, server, campaign):
    filled.submit({"x": 1})
    process = started("--then", "echo ran")
    filled.queue.purge()
    assert complaint(ended(process), 1) == f"queue-eval: campaign {campaign!r} was purged"
    filled.queue = Filled(server, campaign).queue  # for the end of this test


def test_ctrl_c_leaves_the_campaign_alone(filled, started, campaign):
    filled.submit({"x": 1})
    process = started("--then", "echo ran")
    process.send_signal(signal.SIGINT)
    assert "interrupted; the campaign goes on" in complaint(ended(process), 130)
    assert filled.queue.snapshot().outstanding == 1


def test_a_terminal_has_a_bar(filled, server, campaign):
    filled.submit({"x": 1}, {"x": 2})
    filled.run(1, Outcome.OK, "1")
    seen = on_terminal("wait", campaign, "--timeout", "300ms", home=server, typed="", status=124)
    assert "1/2" in seen


@pytest.mark.long
def test_a_server_that_goes_away_and_comes_back(own_home, tmp_path):
    start_server(own_home, keep=True)
    filled = Filled(own_home, "long")
    filled.submit({"x": 1})
    filled.register("box-1")
    process = start_cli("wait", "long", home=own_home, cwd=tmp_path)
    wait_until(lambda: waits(filled))
    pid = server_state(own_home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "is not running (crashed); waiting for it" in process.stderr.readline()
    start_server(own_home, keep=True)
    assert process.stderr.readline() == "queue-eval: the server is back\n"
    filled.run(1, Outcome.OK, "1")
    done = ended(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "campaign long: 1 succeeded\n", "")
    filled.link.close()
