"""The table of `queue-eval jobs`: which jobs, in which order, with which columns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome
from tests.support.cli import COMMAND, Filled, cli_here, complaint, document, filled_campaign, run_on_terminal
from tests.support.processes import Started


@pytest.fixture
def filled(server, campaign):
    with filled_campaign(server, campaign) as filled:
        yield filled


@pytest.fixture
def searched(server, campaign):
    """Ids 1 to 6 with their learning rates; 5 failed, all others have a loss; 6 is not finite."""
    filled = Filled(server, campaign)
    rates = (0.5, 0.001, 0.1, 0.02, 0.3, 0.001)
    filled.submit(*({"lr": lr, "net": {"depth": i}, "set": "a"} for i, lr in enumerate(rates)))
    bodies = ("3.5", "1.25", "2", "1.25", "Traceback\nValueError: bad", '{"loss": 4}')
    outcomes = (*(Outcome.OK,) * 4, Outcome.INF, Outcome.OK)
    leases, now = filled.settle(room=6), time.monotonic()
    filled.settle(
        *(
            Settlement(lease.id, lease.attempt, outcome, 20.0, now, "5eed", body.encode(), b"")
            for lease, outcome, body in zip(leases, outcomes, bodies, strict=True)
        )
    )
    yield filled
    filled.queue.purge()
    filled.link.close()


def listed(campaign: str, *words: object, home: Path) -> list[int]:
    return [job["id"] for job in document(cli_here("jobs", campaign, *words, "--json", home=home))]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (("--where", "lr<0.02"), [2, 6]),
        (("--where", "lr<0.2", "--where", "net.depth>=2"), [3, 4, 6]),
        (("--where", "state=failed"), [5]),
        (("--where", "error~valueerror"), [5]),
        (("--where", "objective<2"), [2, 4]),
        (("--where", "r:loss=4"), [6]),
        (("--where", "lr>7"), []),
        (("--sort", "lr"), [2, 6, 4, 3, 5, 1]),
        (("--sort", "-lr"), [1, 5, 3, 4, 2, 6]),
        (("--sort", "lr", "--limit", 3), [2, 6, 4]),
        (("--sort", "-lr", "--limit", 5), [1, 5, 3, 4, 2]),
        (("--sort", "objective", "--limit", 5), [2, 4, 3, 1, 6]),
        (("--sort", "-r:loss"), [6, 1, 2, 3, 4, 5]),
        (("--best", 2, "--where", "id<6"), [1, 3]),
        (("--best", 3, "--minimize", "--where", "id<6"), [2, 4, 3]),
        (("--best", 2, "--minimize", "--key", "lr"), [2, 6]),
        (("--best", 9, "--key", "r:loss", "--where", "id=6"), [6]),
        (("--limit", 2, "--where", "lr<0.2"), [2, 3]),
    ],
)
def test_which_jobs(searched, server, campaign, words, ids):
    assert listed(campaign, *words, home=server) == ids


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--best", 1), "the result of job 6 is a dict, no number; say what is best with --key r:loss"),
        (("--best", 1, "--key", "r:loss"), "job 1 has no 'r:loss'; choose another --key"),
        (("--best", 1, "--key", "set"), "job 1 has a str, no number, as 'set'"),
        (("--best", 1, "--sort", "lr"), "--best and --sort exclude each other"),
        (("--best", 1, "--limit", 2), "--best and --limit exclude each other"),
        (("--best", 1, "--state", "failed"), "no job that is failed is ever best"),
        (("--minimize",), "--minimize says what is best; give --best N with it"),
        (("--key", "lr"), "--key says what is best"),
        (("--where", "lr"), "'lr' is no condition"),
        (("--columns", " ,"), "--columns names none"),
        (("--columns", "id", "--json"), "--columns is for the table"),
    ],
)
def test_bad_choices(searched, server, campaign, words, told):
    assert told in complaint(cli_here("jobs", campaign, *words, home=server), 2)


def test_bad_choices_are_told_of_before_anything_is_read(own_home):
    assert "is no condition" in complaint(cli_here("jobs", "c", "--where", "lr", home=own_home), 2)


def test_a_table(searched, server, campaign):
    done = cli_here("jobs", campaign, "--where", "id>2", home=server)
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["ID", "STATE", "lr", "net", "ATTEMPTS", "DURATION", "RESULT"]
    assert lines[0].split()[:3] == ["3", "succeeded", "0.1"]
    assert lines[2].endswith("inf: ValueError: bad")
    done = cli_here("jobs", campaign, "--columns", "lr,id,r:loss,net.depth", home=server)
    assert [line.split() for line in done.stdout.splitlines()][-2:] == [
        ["0.3", "5", "-", "4"], ["0.001", "6", "4", "5"],
    ]  # fmt: skip


def test_names_that_no_job_has(searched, server, campaign):
    done = cli_here("jobs", campaign, "--columns", "id,lrr", home=server)
    assert (done.returncode, "no job has 'lrr'" in done.stderr) == (2, True)
    for words in (("--where", "lrr<1"), ("--sort", "lrr")):
        done = cli_here("jobs", campaign, *words, home=server)
        assert (done.returncode, "warning: no job has 'lrr'" in done.stderr) == (0, True)
    # It is enough that a job has it which is not listed.
    assert cli_here("jobs", campaign, "--columns", "r:loss", "--where", "id=1", home=server).stderr == ""


def test_keys_named_like_columns_of_ours(filled, server, campaign):
    header = cli_here("jobs", campaign, home=server).stdout.splitlines()[0]
    assert "config.state" in header.split()
    assert listed(campaign, "--where", "config.state=mine", home=server) == [2]


def seen_at(width: int, *words: object, home: Path) -> list[str]:
    """The lines that a terminal of this width gets."""
    status, seen = run_on_terminal(*COMMAND, *map(str, words), home=home, columns=width, NO_COLOR="1")
    assert status == 0, seen
    return seen.splitlines()


def test_a_table_fits_a_terminal(server, campaign):
    filled = Filled(server, campaign)
    keys = {f"key{k}": k / 7 for k in range(12)}
    filled.submit(*({name: value * i for name, value in keys.items()} | {"same": 1} for i in range(1, 9)))
    filled.run(1, Outcome.OK, json.dumps({"loss": 0.123456789, "more": "x" * 200}))
    filled.run(1, Outcome.INF, "Traceback\nValueError: " + "long " * 40)
    for width in (60, 80, 150):
        lines = seen_at(width, "jobs", campaign, home=server)
        assert len(lines) == 9
        assert max(map(len, lines)) <= width
        assert "same" not in lines[0]
        assert "0.123457" in lines[1]
        assert "inf: ValueError" in lines[2]
    assert lines[0].split().count("key5") == 1  # the widest shows more of them
    lines = seen_at(80, "jobs", campaign, "--columns", "id,key1,result", home=server)
    assert max(map(len, lines)) <= 80
    filled.queue.purge()
    filled.link.close()


def test_the_first_jobs_come_at_once_and_an_interrupt_is_quiet(filled, server, campaign):
    """The reader of a pipe gets lines while most jobs are yet to be read."""
    for _ in range(20):
        filled.submit(*({"x": i} for i in range(1000)))
    process = Started(
        [*COMMAND, "jobs", campaign], env=os.environ | {"QUEUE_EVAL_HOME": str(server)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().split()[0] == "ID"
    assert process.stdout.readline().split()[:2] == ["1", "succeeded"]
    assert process.poll() is None  # the pipe is full
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, "queue-eval: interrupted\n")


def test_limit_ends_reading(filled, server, campaign):
    filled.submit(*({"x": i} for i in range(3000)))
    calls = filled.link.client.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0)
    assert len(listed(campaign, "--limit", 3, "--where", "x>0", home=server)) == 3
    after = filled.link.client.info("commandstats")["cmdstat_hmget"]["calls"]
    assert after - calls < 10
