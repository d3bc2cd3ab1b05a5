from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from queue_eval.driver.callbacks import (
    Callback,
    Callbacks,
    LoggerCallback,
    ProfilingCallback,
    SearchEarlyStopping,
    TqdmCallback,
)  # fmt: skip
from queue_eval.errors import SearchTerminationError, UsageError
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.job import Job
from queue_eval.model.report import Report
from queue_eval.model.states import State


def done(result):
    job = Job(1, {}, None)
    job.result = result
    return job


def test_profile_of_outstanding_jobs():
    profiler = ProfilingCallback()
    launch, end = profiler.on_launch, profiler.on_done
    for event in (launch, launch, end, end, end):
        event(done(1))
    assert list(profiler.profile.columns) == ["timestamp", "n_jobs_running"]
    assert list(profiler.profile["n_jobs_running"]) == [1, 2, 1, 0, 0]


def test_logger_tells_the_best(capsys):
    logger = LoggerCallback()
    for result in (1.0, 3, 2.0):
        logger.on_done(done(result))
    assert capsys.readouterr().out.splitlines() == [
        "[00001] -- best objective: 1.00000 -- received objective: 1.00000",
        "[00002] -- best objective: 3.00000 -- received objective: 3.00000",
        "[00003] -- best objective: 3.00000 -- received objective: 2.00000",
    ]


def test_logger_takes_any_result(capsys):
    LoggerCallback().on_done(done({"a": 1}))
    assert "{'a': 1}" in capsys.readouterr().out


def test_tqdm_counts(capsys):
    bar = TqdmCallback()
    bar.on_launch(done(None))
    bar.on_done(done(2.0))
    bar.on_done(done("text"))
    bar._bar.close()
    err = capsys.readouterr().err
    assert "2/2" in err
    assert "objective=2" in err


def test_early_stopping_counts_jobs_without_improvement():
    stopping = SearchEarlyStopping(patience=2)
    for result in (1, 2, 2, 3, 1):
        stopping.on_done(done(result))
    with pytest.raises(SearchTerminationError):
        stopping.on_done(done(3))


def test_early_stopping_watches_any_function():
    stopping = SearchEarlyStopping(patience=1, objective_func=lambda job: -job.result)
    stopping.on_done(done(2))
    stopping.on_done(done(1))
    with pytest.raises(SearchTerminationError, match="last 1 evaluations"):
        stopping.on_done(done(5))


class Breaks(Callback):
    def on_done(self, job):
        raise KeyError("oops")


class Ends(Callback):
    def on_done(self, job):
        raise SearchTerminationError("enough")


def test_one_that_raises_is_reported_and_the_others_go_on():
    profiler = ProfilingCallback()
    calls = Callbacks([Ends(), Breaks(), profiler])
    calls.launched(done(1))
    with pytest.warns(UserWarning, match=r"Breaks\.on_done raised for job 1.*KeyError"):
        ending = calls.done(done(1))
    assert str(ending) == "enough"
    assert list(profiler.profile["n_jobs_running"]) == [1, 0]


def test_where_warnings_are_errors_nothing_is_lost():
    assert Callbacks([Breaks()]).done(done(1)) is None


def test_half_a_callback_will_do():
    class OnlyDone:
        def on_done(self, job):
            self.job = job

    callback, job = OnlyDone(), done(1)
    calls = Callbacks([callback])
    calls.launched(job)
    calls.done(job)
    assert callback.job is job


@pytest.mark.parametrize("callbacks", [3, [print], [LoggerCallback]])
def test_what_is_no_callback_is_refused(callbacks):
    with pytest.raises(UsageError, match="callback"):
        Callbacks(callbacks)


def failed(text="Traceback\nValueError: boom", cause="error"):
    job = done(FAIL_RETURN_VALUE)
    job.state, job.cause, job.error = State.FAILED, cause, text
    return job


def test_logger_tells_how_a_job_failed_and_ranks_none_of_it(capsys):
    logger = LoggerCallback()
    cancelled = done(FAIL_RETURN_VALUE)
    cancelled.state = State.CANCELLED
    jobs = (failed(), done(2.0), failed("the result is NaN; see", "nan"), cancelled)
    for job in (*jobs, done(float("inf")), failed("x" * 1000)):
        logger.on_done(job)
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [
        "[00001] -- best objective: None -- job 1 failed (error): ValueError: boom",
        "[00002] -- best objective: 2.00000 -- received objective: 2.00000",
        "[00003] -- best objective: 2.00000 -- job 1 failed (nan): the result is NaN; see",
        "[00004] -- best objective: 2.00000 -- job 1 was cancelled",
        "[00005] -- best objective: 2.00000 -- received objective: inf",
    ]
    assert len(last) < 300


def test_logger_shows_large_integers_as_they_are(capsys):
    logger = LoggerCallback()
    for value in (2**60 + 1, 10**400):  # no float holds the second
        logger.on_done(done(value))
        assert capsys.readouterr().out.endswith(f"objective: {value} -- received objective: {value}\n")


def test_tqdm_counts_failures(capsys):
    bar = TqdmCallback()
    for job in (failed(), failed("the result is NaN", "nan"), done(-2.0)):
        bar.on_done(job)
    bar._bar.close()
    err = capsys.readouterr().err
    assert "objective=-2" in err
    assert "failed=2, the last: job 1 failed (nan): the result is NaN" in err
    assert "3.4" not in err.replace("3/3", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), None])
def test_early_stopping_takes_no_failure_and_no_nan_for_the_best(value):
    stopping = SearchEarlyStopping(patience=4, objective_func=lambda job: -job.result["loss"])
    good = done({"loss": 2})
    strange = done({"loss": value})
    if value is None:
        strange = failed()
    for job in (strange, failed(), good, strange, done({"loss": 1}), failed(), strange, failed()):
        stopping.on_done(job)
    assert stopping._best == -1
    with pytest.raises(SearchTerminationError):
        stopping.on_done(failed())


def test_early_stopping_takes_no_text_for_the_best():
    """DeepHyper's run functions return "F_…" for a failure."""
    stopping = SearchEarlyStopping(patience=3)
    for result in ("F_memory", 0.5, "F_memory", 0.7, "F_memory", 0.6):
        stopping.on_done(done(result))
    assert stopping._best == 0.7
    with pytest.raises(SearchTerminationError):
        stopping.on_done(done("F_memory"))


class Hears:
    """A callback that only wants reports. `raises`: what it raises for each."""

    def __init__(self, raises=None):
        self.heard = []
        self.raises = raises

    def on_report(self, job, report):
        self.heard.append((job.id, report.step))
        if self.raises is not None:
            raise self.raises


def test_reports_go_to_those_who_want_them():
    assert Callbacks([LoggerCallback(), Callback()]).on_report is None
    assert Callbacks(None).on_report is None
    hears, profiler = Hears(), ProfilingCallback()
    calls = Callbacks([profiler, hears])
    assert calls.on_report(done(1), Report(4, {"loss": 0.5}, 1, datetime.now(UTC))) is None
    assert hears.heard == [(1, 4)]


def test_one_that_raises_for_reports_is_reported_once_for_each_job():
    breaks, ends, hears = Hears(KeyError("oops")), Hears(SearchTerminationError("enough")), Hears()
    calls = Callbacks([breaks, ends, hears])
    report = Report(4, {"loss": 0.5}, 1, datetime.now(UTC))
    with pytest.warns(UserWarning, match=r"Hears\.on_report raised for job 1, which goes on: KeyError"):
        ending = calls.on_report(done(1), report)
    assert str(ending) == "enough"
    calls.on_report(done(1), report)  # a warning would be an error
    assert len(hears.heard) == 2
