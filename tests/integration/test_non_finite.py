"""A failure is never a number by accident: results that are NaN or infinite, and `failure_value`."""

from __future__ import annotations

import csv
import json
import math

import pandas as pd
import pytest

from queue_eval import Evaluator, State
from queue_eval.driver.callbacks import SearchEarlyStopping
from queue_eval.errors import JobFailed, UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.states import Outcome
from tests.support.cli import Filled, cli, cli_here, complaint, document

NUMBER = "tests.support.functions:number"
RUN = "tests.support.functions:run"


def by_id(jobs):
    return sorted(jobs, key=lambda job: job.id)


def test_a_result_that_is_nan_fails_its_job_at_once(fleet, campaign):
    fleet.worker("--campaign", campaign, slots=2)
    with fleet.driver(campaign, NUMBER, max_attempts=3) as evaluator:
        evaluator.submit([{"value": value} for value in ("nan", "inf", "-inf", "0.5")])
        evaluator.submit([{"value": "nan", "inside": True}])
        nan, inf, minus, fine, inside = by_id(evaluator.gather("ALL", timeout=60))
    for job, cause, text in ((nan, "nan", "NaN"), (inf, "inf", "infinite"), (minus, "inf", "minus infinity")):
        assert (job.state, job.cause, job.attempts, job.result) == ("failed", cause, 1, FAIL_RETURN_VALUE)
        assert job.error == f"the result is {text}; return a finite number, or a dict that holds this one"
    assert (fine.state, fine.cause, fine.result) == ("succeeded", None, 0.5)
    assert (inside.state, inside.cause) == ("succeeded", None)
    assert math.isnan(inside.result["loss"])
    assert document(fleet.cli("status", campaign, "--json"))["counts"]["failed"] == 3
    shown = fleet.cli("jobs", campaign, "--state", "failed").stdout
    assert "nan: the result is NaN; " in shown
    assert document(fleet.cli("job", campaign, "1", "--json"))["cause"] == "nan"


def test_raise_names_it_and_retry_runs_it_again(fleet, campaign):
    fleet.worker("--campaign", campaign)
    with fleet.driver(campaign, NUMBER, on_failure="raise") as evaluator:
        evaluator.submit([{"value": "nan"}])
        with pytest.raises(JobFailed, match=r"job 1 failed \(nan\): the result is NaN"):
            evaluator.gather("ALL", timeout=60)
    assert fleet.cli("retry", campaign).returncode == 0
    with fleet.driver(campaign, NUMBER) as evaluator:
        evaluator.submit([{"value": "nan"}])
        (job,) = evaluator.gather("ALL", timeout=60)
    assert (job.state, job.cause, job.attempts) == ("failed", "nan", 2)


def test_run_ends_with_status_1(tmp_path, own_home):
    (tmp_path / "search.py").write_text("def run(config):\n    return float(config['value'])\n")
    configs = [{"value": value} for value in ("1", "nan", "inf", "nan")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(config) + "\n" for config in configs))
    done = cli("run", "search:run", "--configs", "c.jsonl", "--campaign", "c", home=own_home, cwd=tmp_path)
    assert done.returncode == 1
    assert "3 of 4 jobs failed (2 nan, 1 inf); see why with: queue-eval job" in done.stderr
    assert "4/4 done, 3 failed (2 nan, 1 inf)" in done.stderr
    assert "1 succeeded, 3 failed (2 nan, 1 inf); results in" in done.stdout
    frame = pd.read_csv(tmp_path / "results.csv")
    assert list(frame.columns)[-5:] == ["id", "objective", "elapsed_sec", "duration", "state"]
    assert dict(zip(frame["id"], frame["state"], strict=True)) == {
        1: "succeeded", 2: "failed", 3: "failed", 4: "failed"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "cell"),
    [
        ("F", "F"),
        *(pytest.param(*pair, marks=pytest.mark.long) for pair in (("nan", "nan"), ("null", ""))),
    ],
)
def test_run_takes_a_failure_value(tmp_path, own_home, given, cell):
    (tmp_path / "search.py").write_text("def run(config):\n    return float(config['value'])\n")
    (tmp_path / "c.jsonl").write_text('{"value": 0.5}\n{"value": "b"}\n')
    command = ("run", "search:run", "--configs", "c.jsonl", "--failure-value", given)
    assert cli(*command, home=own_home, cwd=tmp_path).returncode == 1
    with (tmp_path / "results.csv").open(newline="") as file:
        assert {row["state"]: row["objective"] for row in csv.DictReader(file)} == {
            "succeeded": "0.5", "failed": cell
        }  # fmt: skip


def test_a_failure_value_of_run_is_a_scalar(tmp_path, own_home):
    (tmp_path / "c.jsonl").write_text("{}\n")
    command = ("run", "json:loads", "--configs", "c.jsonl", "--failure-value", "[1]")
    done = cli(*command, home=own_home, cwd=tmp_path)
    assert done.returncode == 2
    assert "queue-eval: failure_value is a list; give a number" in done.stderr


def test_a_worker_of_the_build_before_calls_it_a_success(server, campaign, create_reader):
    """As it reports what a process of this version has run."""
    filled = Filled(server, campaign)
    filled.submit({"x": 1}, {"x": 2})
    filled.run(1, Outcome.OK, "NaN")
    filled.run(1, Outcome.OK, "-Infinity")
    jobs = create_reader(campaign).history()
    assert [(job.state, job.cause, job.result) for job in jobs] == [
        ("failed", "nan", FAIL_RETURN_VALUE), ("failed", "inf", FAIL_RETURN_VALUE),
    ]  # fmt: skip
    shown = document(cli_here("job", campaign, "1", "--json", home=server))
    assert (shown["state"], shown["cause"], shown["result"]) == ("failed", "nan", FAIL_RETURN_VALUE)
    filled.queue.purge()
    filled.link.close()


@pytest.fixture
def create_reader(server):
    made = []

    def create(campaign, **keywords):
        made.append(Evaluator.attach(campaign, home=server, **keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


def fail_odd(config):
    if config["x"] % 2:
        raise ValueError("odd")
    return config["x"]


@pytest.mark.parametrize("value", [None, math.inf, math.nan, 0, "none", True])
def test_a_failure_value_of_ones_own(server, campaign, fake_worker, create_reader, tmp_path, value):
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "failure_value": value}
    fake_worker_of = fake_worker
    with Evaluator.create(RUN, "process", keywords) as evaluator:
        evaluator.submit([{"x": x} for x in range(3)])
        fake_worker_of(campaign, fail_odd)
        jobs = by_id(evaluator.gather("ALL", timeout=60))
        (cancelled,) = evaluator.submit([{"x": 9}], delay=1000)
        evaluator.cancel([cancelled])
        evaluator.gather("ALL", timeout=60)
        evaluator.dump_evals(log_dir=tmp_path)
    same = [repr(job.result) for job in (jobs[1], cancelled)]
    assert same == [repr(value)] * 2
    assert [job.result for job in jobs[::2]] == [0, 2]
    attached = {job.id: job.result for job in create_reader(campaign).history()}
    assert repr(attached[2]) == repr(value)
    shown = document(cli_here("job", campaign, "2", "--json", home=server))
    is_number = not isinstance(value, float)
    assert shown["result"] == (value if is_number else None)
    assert cli_here("export", campaign, "--out", tmp_path / "e.csv", home=server).returncode == 0
    dumped, exported = (pd.read_csv(tmp_path / name, dtype=str) for name in ("results.csv", "e.csv"))
    assert list(dumped["objective"].fillna("-")) == list(exported["objective"].fillna("-"))


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), {1}])
def test_a_failure_value_is_a_scalar(value):
    with pytest.raises(UsageError, match=r"failure_value is a .*; give a number, text, True"):
        Evaluator.create(RUN, "process", {"failure_value": value})


def test_early_stopping_and_failures_of_those_who_minimise(server, campaign, fake_worker):
    stopping = SearchEarlyStopping(patience=3, objective_func=lambda job: -job.result)
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "callbacks": [stopping]}
    with Evaluator.create(RUN, "process", keywords) as evaluator:
        evaluator.submit([{"x": x} for x in (3, 8, 6, 2)])
        fake_worker(campaign, fail_odd, room=1)
        assert len(evaluator.gather("ALL", timeout=60)) == 4
        assert stopping._best == -2


def test_json_of_the_commands_stays_json(server, campaign):
    filled = Filled(server, campaign)
    filled.link.call(lambda client: client.hset(filled.queue.keys.meta, "failure_value", "NaN"))
    filled.submit({"x": 1})
    filled.run(2, Outcome.ERROR, "boom")
    filled.run(1, Outcome.ERROR, "boom")
    text = cli_here("jobs", campaign, "--json", home=server).stdout
    (job,) = json.loads(text, parse_constant=pytest.fail)
    assert (job["state"], job["result"]) == (State.FAILED, None)
    filled.queue.purge()
    filled.link.close()


# Tables ---------------------------------------------------------------------------------------------------


SCRIPT = """
def run(config):
    return config["x"]

def other(config):
    return -config["x"]
"""


@pytest.mark.long
def test_campaigns_do_not_overwrite_each_others_results(tmp_path, own_home):
    (tmp_path / "search.py").write_text(SCRIPT)
    (tmp_path / "c.csv").write_text("x\n1\n2\n")
    told_of = "held results of campaign 'first'"
    for function, told in (("run", ""), ("run", ""), ("other", told_of), ("other", "")):
        name = {"run": "first", "other": "second"}[function]
        words = ("run", f"search:{function}", "--configs", "c.csv", "--campaign", name, "--method", "thread")
        done = cli(*words, home=own_home, cwd=tmp_path)
        assert done.returncode == 0
        assert told in done.stderr
        assert ("held results" in done.stderr) == bool(told)
    assert sorted(pd.read_csv(tmp_path / "results.csv")["objective"]) == [-2, -1]
    assert sorted(pd.read_csv(tmp_path / "results.first.csv")["objective"]) == [1, 2]
    # What it has written is read back as configs.
    words = ("run", "search:run", "--configs", "results.csv", "--campaign", "first", "--out", "again.csv")
    assert document(cli(*words, "--method", "thread", "--json", home=own_home, cwd=tmp_path))["jobs"] == 2
    assert sorted(pd.read_csv(tmp_path / "again.csv")["id"]) == [1, 2]


@pytest.mark.parametrize("out", ["x.xlsx", "x.parquet", "x.json"])
def test_results_are_csv(tmp_path, own_home, out):
    (tmp_path / "c.csv").write_text("x\n1\n")
    words = ("run", "json:dumps", "--configs", tmp_path / "c.csv", "--out")
    done = cli_here(*words, tmp_path / out, home=own_home)
    assert f"{out}' is no .csv file by its name" in complaint(done, 2)
    done = cli_here(*words, tmp_path / "c.csv", home=own_home)
    assert "holds the configs, too; choose another --out" in complaint(done, 2)
    assert not own_home.exists()


def test_the_warning_points_at_the_line_of_the_user(server, campaign, fake_worker, tmp_path):
    for name in (campaign, f"{campaign}-b"):
        keywords = {"home": server, "campaign": name, "local_workers": False}
        with Evaluator.create(RUN, "process", keywords) as evaluator:
            evaluator.submit([{"x": 1}])
            fake_worker(name)
            evaluator.gather("ALL", timeout=60)
            if name == campaign:
                evaluator.dump_evals(log_dir=tmp_path)
            else:
                with pytest.warns(UserWarning, match=f"not of campaign '{name}'") as caught:
                    evaluator.dump_evals(log_dir=tmp_path)
                assert [warning.filename for warning in caught] == [__file__]
