"""A job reads what it does not carry from its source: once it is finished, one time only."""

from __future__ import annotations

import copy
import pickle

import pytest

from queue_eval.model.job import Execution, Job, JobSource

EXECUTION = Execution(1, "w", "box", None, None, "succeeded", None, None, "text")


class Source(JobSource):
    def __init__(self):
        self.asked = []

    def output(self, job_id):
        self.asked.append(("output", job_id))
        return "text"

    def executions(self, job_id):
        self.asked.append(("executions", job_id))
        return (EXECUTION,)

    def reports(self, job_id):
        self.asked.append(("reports", job_id))
        return (1, 2)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def job(source):
    return Job.owning(3, {"x": 1}, "m:f", source)


def test_a_finished_job_is_read_once(job, source):
    job.status = Job.DONE
    for _ in range(2):
        assert (job.output, job.executions, job.reports) == ("text", [EXECUTION], [1, 2])
    assert source.asked == [("output", 3), ("executions", 3), ("reports", 3)]
    job.executions.clear()
    assert job.executions == [EXECUTION]


def test_an_unfinished_job_is_read_each_time(job, source):
    assert [job.output, job.output] == ["text"] * 2
    assert len(source.asked) == 2


def test_a_job_without_a_source():
    job = Job(1, {"x": 1}, None)
    assert (job.output, job.executions, job.reports, job.tag) == (None, [], [], None)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_reads_from_the_same_source(job, source, duplicate):
    job.status, job.tag = Job.DONE, {"a": [1]}
    other = duplicate(job)
    assert (other.id, other.config, other.tag, other.output) == (3, {"x": 1, "id": 3}, {"a": [1]}, "text")
    assert source.asked == [("output", 3)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_job_keeps_what_was_read(job, source, protocol):
    job.status, job.tag = Job.DONE, "t"
    assert job.output == "text"
    other = pickle.loads(pickle.dumps(job, protocol))
    assert (other.id, other.status, other.tag, other.output, other.executions) == (3, 2, "t", "text", [])
    assert source.asked == [("output", 3)]


def test_a_job_that_an_earlier_version_has_pickled(job):
    state = job.__reduce_ex__(2)[2][1]
    for name in ("_readings", "_source", "tag"):
        del state[name]
    other = Job.__new__(Job)
    other.__setstate__((None, state))
    assert (other.id, other.tag, other.output) == (3, None, None)
