"""Commands that look at campaigns, and how calls that cannot succeed end."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.moves import Submission
from queue_eval.model.states import Outcome, State
from queue_eval.server.lifecycle import start_server, stop_server
from tests.support.cli import COMMAND, COUNTS, ROOT, cli, cli_here, complaint, document, filled_campaign
from tests.support.processes import Started


@pytest.fixture
def filled(server, campaign):
    with filled_campaign(server, campaign) as filled:
        yield filled


def test_campaigns(filled, server, campaign):
    (one,) = [c for c in document(cli("campaigns", "--json", home=server)) if c["campaign"] == campaign]
    assert one["function"] == "pack.mod:run"
    assert one["counts"] == COUNTS
    lines = cli("campaigns", "--home", server).stdout.splitlines()
    assert lines[0].split()[:3] == ["CAMPAIGN", "FUNCTION", "METHOD"]
    (line,) = [line.split() for line in lines if line.startswith(f"{campaign} ")]
    assert line[1:9] == ["pack.mod:run", "process", "1", "2", "1", "2", "1", "1"]
    assert "\x1b" not in "".join(lines)


def test_status(filled, server, campaign):
    status = document(cli("status", campaign, "--json", home=server))
    assert status["campaign"] == campaign
    assert (status["function"], status["method"]) == ("pack.mod:run", "process")
    assert status["created_at"].endswith("+00:00")
    assert status["counts"] == COUNTS
    (worker,) = status["workers"]
    assert 0.5 < worker.pop("last_seen_s") < 60
    assert worker == {"name": "box-1", "host": "box", "pid": 77, "slots": 4, "running": 1, "state": "running"}
    assert status["rate_per_s"] > 0
    assert status["time_left_s"] > 0
    assert status["paused"] is False
    shown = cli("status", campaign, home=server)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ["failed", "1"] in [line.split() for line in shown.stdout.splitlines()]


def test_status_of_workers_named_and_lost(filled, server, campaign):
    filled.deregister("box-1")
    filled.register("box-2", campaigns=[campaign])
    filled.register("box-3", campaigns=["other"])
    lost, named = document(cli("status", campaign, "--json", home=server))["workers"]
    assert (lost["name"], lost["running"], lost["last_seen_s"], lost["state"]) == ("box-1", 1, None, "lost")
    assert (named["name"], named["running"]) == ("box-2", 0)
    filled.deregister("box-2")
    filled.deregister("box-3")


def test_jobs(filled, server, campaign):
    jobs = document(cli("jobs", campaign, "--json", home=server))
    assert [job["id"] for job in jobs] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [job["state"] for job in jobs] == [
        "succeeded", "succeeded", "failed", "running", "pending", "pending", "scheduled", "cancelled",
    ]  # fmt: skip
    assert [job["attempts"] for job in jobs] == [1, 1, 2, 1, 0, 0, 0, 0]
    assert jobs[0]["config"] == {"x": 1, "deep": {"a": [1]}}
    assert jobs[0]["result"] == 10.5
    assert jobs[1]["result"] == {"score": 1, "nan": None}
    assert (jobs[2]["result"], jobs[2]["cause"]) == (FAIL_RETURN_VALUE, "error")
    assert (jobs[3]["worker"], jobs[3]["host"]) == ("box-1", "box")
    assert jobs[4]["result"] is None
    lines = cli("jobs", campaign, home=server).stdout.splitlines()
    assert len(lines) == 9
    assert lines[3].split()[:2] == ["3", "failed"]
    assert "ValueError: second" in lines[3]


def test_tags(filled, server, campaign, tmp_path):
    tagged = Submission('{"x": 9}', b"a config of its own", tag='{"trial": [7]}')
    filled.queue.enqueue("another driver", 1, [tagged], reuse=False)
    jobs = document(cli_here("jobs", campaign, "--json", home=server))
    assert [job["tag"] for job in jobs] == [None] * 8 + [{"trial": [7]}]
    assert document(cli_here("job", campaign, 9, "--json", home=server))["tag"] == {"trial": [7]}
    assert 'tag        {"trial": [7]}' in cli_here("job", campaign, 9, home=server).stdout
    assert "tag " not in cli_here("job", campaign, 1, home=server).stdout
    filled.run(3, Outcome.OK, "1")
    out = tmp_path / "all.jsonl"
    cli_here("export", campaign, "--out", out, home=server)
    rows = {row["id"]: row["tag"] for row in map(json.loads, out.read_text().splitlines())}
    assert (rows[1], rows[9]) == (None, {"trial": [7]})


@pytest.mark.parametrize("state", list(State))
def test_jobs_of_a_state(filled, server, campaign, state):
    jobs = document(cli_here("jobs", campaign, "--state", state, "--json", home=server))
    assert {job["state"] for job in jobs} == {state.value}
    assert len(jobs) == COUNTS[state]


def test_jobs_are_limited_and_paged(filled, server, campaign):
    filled.submit(*({"x": i} for i in range(3000)))
    assert [j["id"] for j in document(cli_here("jobs", campaign, "--limit", 2, "--json", home=server))] == [
        1,
        2,
    ]
    assert (
        document(cli_here("jobs", campaign, "--state", "failed", "--limit", 5, "--json", home=server))[0][
            "id"
        ]
        == 3
    )
    jobs = document(cli("jobs", campaign, "--json", home=server))
    assert [job["id"] for job in jobs] == list(range(1, 3009))


def test_job(filled, server, campaign):
    job = document(cli("job", campaign, 3, "--json", home=server))
    assert job["error"] == "Traceback ...\nValueError: second"
    assert [a["error"].splitlines()[-1] for a in job["attempts_on_record"]] == [
        "ValueError: first", "ValueError: second",
    ]  # fmt: skip
    assert [a["output"] for a in job["attempts_on_record"]] == ["half\n", "rest\n"]
    assert job["output"] == "rest\n"
    for attempt in job["attempts_on_record"]:
        assert (attempt["host"], attempt["run_s"]) == ("box", 0.02)
        assert job["submitted_at"] <= attempt["ended_at"] <= job["finished_at"]
        assert attempt["started_at"] < attempt["ended_at"]
    shown = cli("job", campaign, 3, home=server).stdout
    for part in ("ValueError: first", "ValueError: second", "half", "rest", '{"x": 3}'):
        assert shown.count(part) == 1
    one = document(cli_here("job", campaign, 1, "--json", home=server))
    assert (one["result"], one["output"], one["host"]) == (10.5, "printed\n", "box")
    assert [a["outcome"] for a in one["attempts_on_record"]] == ["ok"]
    assert document(cli_here("job", campaign, 8, "--json", home=server))["state"] == "cancelled"
    assert "running" in cli("job", campaign, 4, home=server).stdout


def test_a_long_config_is_indented(filled, server, campaign):
    config = {"layers": [{"units": 64}] * 9, "text": "a" * 60}
    filled.submit(config)
    lines = cli_here("job", campaign, 9, home=server).stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("config"))
    assert lines[first] == "config     {"
    assert json.loads("".join(line[11:] for line in lines[first:])) == config


def test_attempts_of_a_cancelled_job(filled, server, campaign):
    """A failed attempt of a job that was cancelled while it waited is shown whole; so is one that ran."""
    filled.run(1, Outcome.ERROR, "Traceback ...\nValueError: fifth", "of the fifth\n")
    filled.queue.cancel([4, 5])
    (attempt,) = document(cli_here("job", campaign, 5, "--json", home=server))["attempts_on_record"]
    assert (attempt["outcome"], attempt["worker"]) == ("error", "box-1")
    shown = cli_here("job", campaign, 5, home=server).stdout
    assert "ValueError: fifth" in shown
    assert "of the fifth" in shown
    (attempt,) = document(cli_here("job", campaign, 4, "--json", home=server))["attempts_on_record"]
    assert (attempt["outcome"], attempt["host"]) == ("cancelled", "box")
    assert attempt["ended_at"] is not None


def test_jobs_that_are_not(filled, server, campaign):
    assert "its ids are 1 to 8" in complaint(cli("job", campaign, 9, home=server), 2)
    assert "'x' is not" in complaint(cli_here("job", campaign, "x", home=server), 2)
    complaint(cli_here("job", campaign, 0, home=server), 2)
    complaint(cli_here("cancel", campaign, 4, 99, home=server), 2)
    complaint(cli_here("retry", campaign, 3, 99, home=server), 2)
    assert filled.queue.snapshot().counts == COUNTS


@pytest.mark.parametrize(
    "words", [["status"], ["jobs"], ["job", 1], ["cancel"], ["pause"], ["purge", "--yes"]]
)
def test_campaigns_that_are_not(server, words):
    command, *rest = words
    assert "no campaign 'nix'" in complaint(cli_here(command, "nix", *rest, home=server), 1)


@pytest.mark.parametrize(
    "words",
    [
        ["statsu"], ["status"], ["status", "a", "b"], ["status", "a", "--nix"], ["--nix"], ["export", "a"],
        ["jobs", "a", "--state", "x"],
        ["jobs", "a", "--limit", "0"], ["status", "a/b"], ["status", "a", "--url", "http://x"],
    ],
)  # fmt: skip
def test_wrong_usage(words, own_home):
    line = complaint(cli_here(*words, home=own_home), 2)
    assert ";" in line
    assert not own_home.exists()


def test_no_command():
    done = cli()
    assert done.returncode == 2
    assert "campaigns" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert cli("--help").returncode == cli("status", "-h").returncode == 0
    assert cli("--version").stdout.startswith("queue-eval, version ")


@pytest.mark.parametrize("words", [["campaigns"], ["status", "c"], ["workers"], ["purge", "c", "--yes"]])
def test_no_server_is_never_started(own_home, words):
    assert "queue-eval server start" in complaint(cli_here(*words, home=own_home), 2)
    assert not own_home.exists()


def test_server_that_is_not_running(own_home):
    start_server(own_home)
    stop_server(own_home)
    line = complaint(cli("campaigns", "--home", own_home), 2)
    assert f"queue-eval server start --home {own_home}" in line
    line = complaint(cli("campaigns", "--url", "redis://:secret@127.0.0.1:1"), 2)
    assert "secret" not in line
    complaint(cli("campaigns", QUEUE_EVAL_URL="redis://127.0.0.1:1"), 2)


def test_unexpected_errors_and_debug(filled, server, campaign, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from queue_eval.campaign.view import CampaignView\n"
        "def snapshot(self): raise ArithmeticError('a defect of ours')\nCampaignView.snapshot = snapshot\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert "unexpected ArithmeticError" in complaint(cli("campaigns", home=server, **path), 1)
    assert "--debug" in complaint(cli("status", campaign, home=server, **path), 1)
    for words in (["--debug", "status", campaign], ["status", campaign, "--debug"]):
        assert "Traceback (most recent call last)" in cli(*words, home=server, **path).stderr


def test_a_damaged_campaign_is_told_of(filled, server, campaign):
    filled.link.call(lambda client: client.hset(filled.queue.keys.meta, "created_ms", "x"))
    told = f"what the server holds is damaged (campaign '{campaign}'"
    assert told in complaint(cli("status", campaign, home=server), 2)
    listed = cli("campaigns", home=server)
    assert (listed.returncode, campaign in listed.stdout) == (0, False)
    assert f"warning: campaign '{campaign}' is left out: what the server holds is damaged" in listed.stderr
    checks = {check["name"]: check for check in document(cli("doctor", "--json", home=server), 1)["checks"]}
    assert checks[f"campaign {campaign}"]["status"] == "fail"
    assert told in checks[f"campaign {campaign}"]["detail"]


def test_reader_that_leaves(filled, server, campaign):
    filled.submit(*({"x": i} for i in range(5000)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QUEUE_EVAL_HOME": str(server)}
    process = Started(
        [*COMMAND, "jobs", campaign], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
