"""The interface of DeepHyper 0.3.3, with the workers that a driver starts by itself."""

from __future__ import annotations

import csv
import math

import pytest

from queue_eval import Evaluator, Job
from queue_eval.model.codec import FAIL_RETURN_VALUE
from tests.support.marks import soak


def run(config):
    return config["x"]


def give(config):
    return eval(config["value"], {"nan": math.nan, "inf": math.inf})


def fail_or_not(config):
    if config["x"] % 2:
        raise ValueError(f"odd: {config['x']}")
    return config["x"]


def look(config):
    assert config.pop("id")
    config["x"] = "changed"
    return sorted(config)


@pytest.fixture(params=["process", *soak("thread", "subprocess")])
def create(request, own_home):
    made = []

    def create(run_function, **keywords):
        keywords = {"home": own_home, "num_workers": 2} | keywords
        made.append(Evaluator.create(run_function, request.param, keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close(cancel=True)


def test_the_tests_of_deephyper(create):
    evaluator = create(run)
    configs = [{"x": i} for i in range(10)]
    evaluator.submit(configs)
    jobs = evaluator.gather("ALL")
    jobs.sort(key=lambda j: j.config["x"])
    for config, job in zip(configs, jobs, strict=True):
        assert config["x"] == job.config["x"] == job.result

    evaluator.submit(configs)
    jobs = evaluator.gather("BATCH", size=1)
    assert 1 <= len(jobs) <= len(configs)


def test_wrong_evaluator():
    for error in (RuntimeError, ValueError):
        with pytest.raises(error, match="thread, process, subprocess, ray, rq"):
            Evaluator.create(run, method="threadPool", method_kwargs={"num_workers": 1})
    with pytest.raises(RuntimeError, match="is not a valid method"):
        Evaluator.create(run, method=None)


def test_jobs_and_status(create):
    evaluator = create(look)
    config = {"x": 1}
    (job,) = evaluator.submit([config])
    assert isinstance(job, Job)
    assert (job.id, job.status, config) == (1, Job.RUNNING, {"x": 1})
    (done,) = evaluator.gather("ALL")
    assert done is job
    assert job.status == Job.DONE
    # The run function gets a dict of its own.
    assert job.config == {"x": 1, "id": 1}
    got, result = job
    assert (got, result) == ({"x": 1}, ["x"])


def test_results_are_stored_raw(create):
    values = ['{"objective": 1.0, "b": [1]}', "'it\\'s'", "None", "True", "[1, 'a']", "3", "'F_error'"]
    evaluator = create(give)
    evaluator.submit([{"value": value} for value in values])
    for job in evaluator.gather("ALL"):
        assert job.result == eval(job.config["value"])


def test_scalars_that_are_not_finite(create):
    evaluator = create(give)
    evaluator.submit([{"value": value} for value in ("nan", "inf", "-inf")])
    assert [job.result for job in evaluator.gather("ALL")] == [FAIL_RETURN_VALUE] * 3
    assert Evaluator.FAIL_RETURN_VALUE == FAIL_RETURN_VALUE == -3.4028235e38


def test_an_exception_poisons_nothing(create):
    evaluator = create(fail_or_not)
    for _ in range(2):
        evaluator.submit([{"x": x} for x in range(4)])
        jobs = sorted(evaluator.gather("ALL"), key=lambda job: job.config["x"])
        assert [job.result for job in jobs] == [0, FAIL_RETURN_VALUE, 2, FAIL_RETURN_VALUE]
        assert "ValueError: odd: 3" in jobs[3].error
        assert "fail_or_not" in jobs[3].error


def test_a_batch_is_a_minimum(create):
    evaluator = create(run)
    assert evaluator.gather("BATCH", size=1) == evaluator.gather("ALL") == []
    evaluator.submit([{"x": x} for x in range(3)])
    words = r"Requested a batch size \(10\) larger than currently running tasks \(3\)\. "
    with pytest.warns(UserWarning, match=words):
        assert len(evaluator.gather("BATCH", size=10)) == 3
    with pytest.raises(AssertionError, match=r"Unsupported gather operation: FOO\."):
        evaluator.gather("FOO")


def test_closures_travel(create):
    factor = 7

    def local(config):
        return factor * config["x"]

    evaluator = create(local)
    evaluator.submit([{"x": 6}])
    (job,) = evaluator.gather("ALL")
    assert job.result == 42


def test_results_csv(create, tmp_path):
    evaluator = create(run)
    evaluator.dump_evals(log_dir=tmp_path)
    assert not (tmp_path / "results.csv").exists()
    evaluator.submit([{"x": i} for i in range(4)])
    evaluator.gather("ALL")
    for _ in range(2):
        evaluator.dump_evals(log_dir=tmp_path)
        rows = read(tmp_path)
        assert rows[0] == ["x", "id", "objective", "elapsed_sec", "duration", "state"]
        assert sorted(row[0] for row in rows[1:]) == ["0", "1", "2", "3"]
    evaluator.submit([{"x": 5, "y": [1, 2]}])
    evaluator.gather("ALL")
    evaluator.dump_evals(log_dir=tmp_path)
    rows = read(tmp_path)
    assert rows[0] == ["x", "y", "id", "objective", "elapsed_sec", "duration", "state"]
    assert rows[5][:4] == ["5", "[1, 2]", "5", "5"]
    evaluator.dump_evals(saved_keys=["x"], log_dir=tmp_path)
    assert read(tmp_path)[0] == ["x", "id", "objective", "elapsed_sec", "duration", "state"]
    evaluator.dump_evals(saved_keys=lambda job: {"square": job.config["x"] ** 2}, log_dir=tmp_path)
    assert read(tmp_path)[0] == ["square", "id", "objective", "elapsed_sec", "duration", "state"]
    assert read(tmp_path)[5][0] == "25"


def test_small_helpers(create):
    evaluator = create(run)
    assert evaluator.decode('{"x": 1}') == {"x": 1}
    for wrong in ("[1]", "3", "x", "", None, 3, [1]):
        with pytest.raises(ValueError):  # noqa: PT011 - the type is the promise
            evaluator.decode(wrong)
    assert evaluator.convert_for_csv([1, 2]) == "[1, 2]"
    assert evaluator.convert_for_csv((1, 2)) == (1, 2)
    job = evaluator.create_job({"x": 1})
    assert (job.id, job.config, job.status, job.run_function) == (1, {"x": 1, "id": 1}, Job.READY, run)


def read(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.reader(file))
