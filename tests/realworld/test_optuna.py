"""Optuna minimises, and trials diverge: the best trial is a real one, and no diverged one counts."""

from __future__ import annotations

import math
import warnings

import pytest

from queue_eval import Evaluator

pytestmark = pytest.mark.realworld

FUNCTION = "tests.support.functions:diverging"
OPTIMUM = 0.1


@pytest.fixture
def optuna():
    module = pytest.importorskip("optuna")
    module.logging.set_verbosity(module.logging.ERROR)
    return module


def search(optuna, home, tell, *, rounds=8, batch=4, **keywords):
    """The study after so many batches; `tell` gives it the outcome of a job."""
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=1))
    # Of every kind at least one: a good one, NaN, infinite, an error.
    for lr in (0.2, 0.9, 0.4, 0.005):
        study.enqueue_trial({"lr": lr})
    with Evaluator.create(FUNCTION, "process", {"home": home, "num_workers": 2} | keywords) as evaluator:
        for _ in range(rounds):
            trials = [study.ask() for _ in range(batch)]
            configs = [{"lr": trial.suggest_float("lr", 0.001, 1.0)} for trial in trials]
            jobs = evaluator.submit(configs)
            of_job = {job.id: trial for job, trial in zip(jobs, trials, strict=True)}
            for job in evaluator.gather("ALL", timeout=100):
                tell(study, of_job[job.id], job)
        jobs = {job.config["lr"]: job for job in evaluator.jobs_done}
    return study, jobs


def by_state(study, trial, job):
    """As one tells a study who looks at the state."""
    from optuna.trial import TrialState

    if job.state == "succeeded":
        study.tell(trial, job.result)
    else:
        study.tell(trial, state=TrialState.FAIL)


def by_result(study, trial, job):
    """As one tells a study who only looks at the result."""
    study.tell(trial, job.result)


@pytest.mark.parametrize(("tell", "keywords"), [(by_state, {}), (by_result, {"failure_value": math.nan})])
def test_minimising_with_trials_that_diverge(optuna, own_home, tell, keywords):
    with warnings.catch_warnings():
        # It tells of each NaN that it counts as a failure.
        warnings.filterwarnings("ignore", ".*nan.*", UserWarning)
        study, jobs = search(optuna, own_home, tell, **keywords)
    states = {trial.params["lr"]: trial.state.name for trial in study.trials}
    assert len(states) == 32
    for lr, job in jobs.items():
        is_real = 0.01 <= lr <= 0.3
        assert states[lr] == ("COMPLETE" if is_real else "FAIL")
        assert job.state == ("succeeded" if is_real else "failed")
    assert {job.cause for job in jobs.values()} == {None, "nan", "inf", "error"}
    best = study.best_trial
    assert best.value == min(job.result for job in jobs.values() if job.state == "succeeded")
    assert 0 <= best.value <= (0.2 - OPTIMUM) ** 2
