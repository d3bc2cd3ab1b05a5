"""What notebooks and Python show: HTML of evaluators and jobs, the live progress, plots."""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from queue_eval import Evaluator, ProgressCallback, State, UsageError
from queue_eval.model.html import MOST_ROWS, job_html, jobs_html
from queue_eval.model.job import Job


def square(config):
    return config["x"] ** 2


def maybe(config):
    if config["x"] == 2:
        raise ValueError("<b>odd</b> lr 7")
    return {"objective": config["x"], "loss": -config["x"]}


def created(function: Any, server: Path, campaign: str, **options: Any) -> Evaluator:
    options |= {"num_workers": 2, "home": server, "campaign": campaign, "max_attempts": 1}
    return Evaluator.create(function, method="thread", method_kwargs=options)


@pytest.fixture(scope="module")
def evaluator(_shared_home):
    with created(maybe, _shared_home, f"notebook-{uuid.uuid4().hex[:8]}") as evaluator:
        yield evaluator


@pytest.fixture(scope="module")
def jobs(evaluator):
    """Three have succeeded, and one has failed."""
    evaluator.submit([{"x": x} for x in range(4)])
    return evaluator.gather("ALL", timeout=60)


@pytest.fixture
def empty(server, campaign):
    with created(maybe, server, campaign) as evaluator:
        yield evaluator


def test_a_list_of_jobs_is_a_table(jobs, evaluator):
    assert isinstance(jobs, list)
    shown = jobs._repr_html_()
    assert shown.startswith("<p>4 jobs</p><table>")
    assert "ValueError: &lt;b&gt;odd&lt;/b&gt; lr 7" in shown
    assert "<b>odd" not in shown
    for others in (evaluator.jobs, evaluator.jobs_done, evaluator.best(2, key=lambda job: job.result["loss"]),
                   evaluator.outstanding(), evaluator.history()):  # fmt: skip
        assert others._repr_html_().count("<tr>") == len(others) + 1


def test_a_job_shows_its_result_or_its_error(jobs):
    good, bad = (next(job for job in jobs if job.config["x"] == x) for x in (3, 2))
    assert "{&quot;objective&quot;:3,&quot;loss&quot;:-3}" in good._repr_html_()
    shown = bad._repr_html_()
    assert "<summary>ValueError: &lt;b&gt;odd&lt;/b&gt; lr 7</summary>" in shown
    assert "Traceback" in shown
    assert repr(bad).endswith("error='ValueError: <b>odd</b> lr 7')")
    assert repr(good).endswith("result={'objective': 3, 'loss': -3})")


def test_many_jobs_are_shown_in_part():
    many = [Job(n, {"x": n}, None) for n in range(1, MOST_ROWS + 8)]
    shown = jobs_html(many)
    assert shown.count("<tr>") == MOST_ROWS + 1
    assert shown.endswith("<p>and 7 more</p>")
    assert "<td>pending</td>" in shown


def test_a_hostile_value_is_only_text():
    class Odd:
        def __repr__(self):
            return "<script>\x1b[2J"

    job = Job(1, {"x": 1}, None)
    job.tag = Odd()
    shown = job_html(job)
    assert "<script>" not in shown
    assert "\x1b" not in shown


def test_an_evaluator_shows_its_campaign(jobs, evaluator):
    shown = evaluator._repr_html_()
    assert "4 of 4 finished: 3 succeeded, 1 failed" in shown
    assert "objective = 3, job 4" in shown
    assert "1: ValueError: &lt;b&gt;odd&lt;/b&gt; lr 7" in shown
    assert "4 gathered, 0 outstanding" in shown


def test_one_whose_server_is_away_shows_what_it_knows(jobs, evaluator, monkeypatch):
    from queue_eval.errors import ServerUnreachableError

    def away(**_: object):
        raise ServerUnreachableError("the server is away")

    monkeypatch.setattr(evaluator._session.queue, "snapshot", away)
    assert "the server is away" in evaluator._repr_html_()
    assert "4 gathered, 0 outstanding" in evaluator._repr_html_()


def test_the_total(empty, server, campaign):
    assert empty.total is None
    empty.total = 10
    assert empty.total == 10
    for wrong in (0, 1.5, "9", True):
        with pytest.raises(UsageError, match="total is"):
            empty.total = wrong
    assert "0 of 10 finished: none yet" in empty._repr_html_()
    with Evaluator.attach(campaign, home=server, read_only=True) as looker:
        assert looker.total == 10
        with pytest.raises(UsageError, match="only looks"):
            looker.total = 3
    empty.total = None
    assert empty.total is None


# Progress -----------------------------------------------------------------------------------------------


@pytest.fixture
def progress_evaluator(server, campaign):
    callback = ProgressCallback()
    with created(maybe, server, campaign, callbacks=[callback]) as evaluator:
        yield evaluator, callback


def test_the_progress_knows_what_failed_and_the_end(progress_evaluator, capsys):
    evaluator, callback = progress_evaluator
    evaluator.submit([{"x": x} for x in range(4)])
    evaluator.gather("ALL", timeout=60)
    assert callback.text == "4/4 done, 1 failed"
    assert capsys.readouterr().err.splitlines()[-1] == "4/4 done, 1 failed"


def test_the_progress_in_a_notebook(server, campaign, monkeypatch):
    """A front end that shows HTML, as IPython's kernel has one."""
    shown: list[str] = []

    class Handle:
        def update(self, html):
            shown.append(html)

    def display(html, display_id):
        assert display_id
        shown.append(html)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    with created(square, server, campaign, callbacks=[ProgressCallback(total=5)]) as evaluator:
        evaluator.submit([{"x": x} for x in range(3)])
        evaluator.gather("ALL", timeout=60)
    assert shown[-1].startswith('<progress value="3" max="5" style="width:20em"></progress> 3/5 done')
    assert "best 4" in shown[-1]


def test_the_time_left_is_told(progress_evaluator):
    _, callback = progress_evaluator
    job = Job(1, {}, None)
    job.state, job.result = State.SUCCEEDED, 2.5
    for seconds in (20, 10):
        job.finished_ms = callback._began_ms - seconds * 1000
        callback.on_done(job)
    callback.on_wait({"succeeded": 2, "running": 1, "pending": 1}, 4)
    assert callback.text.startswith("2/4 done, 1 running, best 2.5, ")
    assert callback.text.endswith(" left")


def test_a_callback_that_raises_while_the_driver_waits(server, campaign):
    class Bad:
        def on_wait(self, counts, planned):
            raise RuntimeError("no")

    with created(square, server, campaign, callbacks=[Bad()]) as evaluator:
        evaluator.submit([{"x": 3}])
        why = r"Bad\.on_wait raised, and is called on: RuntimeError: no"
        with pytest.warns(UserWarning, match=why) as told:
            jobs = evaluator.gather("ALL", timeout=60)
        assert [job.result for job in jobs] == [9]
        assert len(told) == 1
        evaluator.submit([{"x": 4}])
        assert [job.result for job in evaluator.gather("ALL", timeout=60)] == [16]


# Plots --------------------------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_the_objective(jobs, evaluator, pyplot):
    axes = evaluator.plot()
    labels = {line.get_label(): line for line in axes.get_lines()}
    assert list(labels) == ["result", "best so far", "failed"]
    assert sorted(labels["result"].get_ydata()) == [0, 1, 3]
    assert max(labels["best so far"].get_ydata()) == 3
    assert axes.get_ylabel() == "objective"
    lowest = evaluator.plot("objective", key="loss", direction="min")
    assert min({line.get_label(): line for line in lowest.get_lines()}["best so far"].get_ydata()) == -3


@pytest.mark.parametrize("kind", ["objective", "curves", "rate", "slots"])
def test_each_kind_draws_into_given_axes(jobs, evaluator, pyplot, kind):
    _, axes = pyplot.subplots()
    assert evaluator.plot(kind, ax=axes) is axes
    axes.figure.canvas.draw()


def test_slots_have_a_bar_for_each_attempt(jobs, evaluator, pyplot):
    assert len(evaluator.plot("slots").patches) == 4


def test_an_empty_campaign_is_drawn(empty, pyplot):
    for kind in ("objective", "curves", "rate", "slots"):
        empty.plot(kind).figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"kind": "pie"}, "there is no plot 'pie'; give one of: objective, curves, rate, slots"),
        ({"key": "los"}, "no result has a number 'los'; they have: objective, loss"),
        ({"direction": "up"}, 'direction is \'up\'; give "max" or "min"'),
    ],
)
def test_what_is_not_there_is_said(jobs, evaluator, arguments, why):
    with pytest.raises(UsageError, match=f"^{re.escape(why)}$"):
        evaluator.plot(**arguments)


def test_without_matplotlib(empty, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'queue-eval\[plot\]'"):
        empty.plot()
