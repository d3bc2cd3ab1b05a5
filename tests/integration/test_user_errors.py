"""What a driver is told, and where, when it does something that would have no effect or had none."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_eval import Evaluator, RQEvaluator, ThreadPoolEvaluator, UsageError

NAME = "tests.support.functions:run"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def create(server: Path, campaign: str) -> Iterator[Callable[..., Evaluator]]:
    made: list[Evaluator] = []

    def create(
        run_function: object = NAME, kind: type[Evaluator] = ThreadPoolEvaluator, **more: object
    ) -> Evaluator:
        made.append(
            kind(run_function, **{"campaign": campaign, "home": server, "local_workers": False} | more)
        )
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


# What is decided at creation ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keyword"), [
    ("run_function_kwargs", "run_function_kwargs"), ("run_function_kwarg", "run_function_kwargs"),
    ("run_function", "run_function"), ("num_workers", "num_workers"), ("n_workers", "num_workers"),
    ("callbacks", "callbacks"), ("callback", "callbacks"), ("campaign", "campaign"), ("method", "method"),
    ("timelimit", "time_limit"), ("max_attempt", "max_attempts"), ("reuse", "reuse"),
])  # fmt: skip
def test_an_assignment_that_would_do_nothing_is_refused(create, name, keyword):
    evaluator = create()
    before = getattr(evaluator, name, None)
    with pytest.raises(
        UsageError, match=rf"^{name} .*decided when .* created; create another .*{keyword}=…$"
    ):
        setattr(evaluator, name, {"a": 1})
    assert getattr(evaluator, name, None) == before


def test_keywords_of_one_class_are_its_own(create):
    evaluator = create(kind=RQEvaluator)
    with pytest.raises(UsageError, match="rq_queue is decided"):
        evaluator.rq_queue = "other"
    create_thread = ThreadPoolEvaluator.__new__(ThreadPoolEvaluator)
    create_thread.rq_queue = "mine"


def test_other_attributes_are_the_users_own(create):
    class Own(ThreadPoolEvaluator):
        timeout = 3
        queue = "of the subclass"

    evaluator = create(kind=Own)
    evaluator.timeout, evaluator.queue, evaluator.problem, evaluator.jobs_by_name = 4, "mine", object(), {}
    assert (evaluator.timeout, evaluator.queue, evaluator.jobs_by_name) == (4, "mine", {})


def test_what_a_subclass_sets_in_its_constructor_is_its_own(create):
    class Own(ThreadPoolEvaluator):
        def __init__(self, function: str, extra: int = 1, num_workers: int = 1, **options: object) -> None:
            self.queue = "first"
            super().__init__(function, num_workers, **options)
            self.extra, self.num_workers, self.methods = extra, num_workers, [extra]

    evaluator = create(kind=Own)
    evaluator.extra, evaluator.queue, evaluator.methods = 2, "second", []
    assert (evaluator.extra, evaluator.queue, evaluator.methods) == (2, "second", [])
    with pytest.raises(UsageError, match="num_workers is decided"):
        evaluator.num_workers = 3
    with pytest.raises(UsageError, match=r"reused \(for reuse\?\) is decided"):
        evaluator.reused = True

    class Late(ThreadPoolEvaluator):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            with pytest.raises(UsageError, match="num_workers is decided"):
                self.num_workers = 5

    create(kind=Late)


def test_an_attached_evaluator_refuses_the_same(create, server):
    evaluator = create()
    with (
        Evaluator.attach(evaluator.campaign, home=server) as attached,
        pytest.raises(UsageError, match="num_workers is decided"),
    ):
        attached.num_workers = 3


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_evaluator_cannot_be_copied(create, campaign, take):
    evaluator = create()
    with pytest.raises(
        UsageError, match=re.escape(f"open its campaign there with: Evaluator.attach({campaign!r})")
    ):
        take({"search": [evaluator]} if take is copy.deepcopy else evaluator)


# Where warnings point -------------------------------------------------------------------------------------


def check_points_here(caught: list[warnings.WarningMessage]) -> None:
    (one,) = caught
    assert Path(one.filename).resolve() == Path(__file__).resolve()
    assert "HERE" in Path(one.filename).read_text().splitlines()[one.lineno - 1]


def test_a_warning_of_gather_points_at_the_users_line(create, fake_worker, campaign):
    evaluator = create()
    evaluator.submit([{"x": 1}])
    fake_worker(campaign)
    with pytest.warns(UserWarning, match="larger than currently running tasks") as caught:
        evaluator.gather("BATCH", 5)  # HERE
    check_points_here(caught.list)


def test_a_warning_of_an_opening_points_at_the_users_line(server, campaign):
    keywords = {"campaign": campaign, "home": server, "local_workers": False}
    Evaluator.create(NAME, "thread", keywords | {"run_function_kwargs": {"a": 1}}).close()
    with pytest.warns(UserWarning, match="run_function_kwargs have changed") as caught:
        Evaluator.create(NAME, "thread", keywords | {"run_function_kwargs": {"a": 2}}).close()  # HERE
    check_points_here(caught.list)
    with pytest.warns(UserWarning, match="run_function_kwargs have changed") as caught:
        ThreadPoolEvaluator(NAME, run_function_kwargs={"a": 3}, **keywords).close()  # HERE
    check_points_here(caught.list)


def test_a_warning_of_a_callback_points_at_the_users_line(create):
    class Breaks:
        def on_launch(self, job: object) -> None:
            raise KeyError("launch")

        def on_done(self, job: object) -> None:
            pass

    evaluator = create(callbacks=[Breaks()])
    with pytest.warns(UserWarning, match="on_launch raised") as caught:
        evaluator.submit([{"x": 1}])  # HERE
    check_points_here(caught.list)


def test_a_warning_of_a_wait_points_at_the_users_line(create, monkeypatch):
    monkeypatch.setattr("queue_eval.driver.chores.UNSERVED_S", 0.1)
    monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.05)
    evaluator = create(queue="of-nobody-here")
    evaluator.submit([{"x": 1}])
    with pytest.warns(UserWarning, match="start a worker with") as caught:
        for _ in evaluator.as_completed(timeout=1.5):  # HERE
            pass
    check_points_here(caught.list)


def test_a_warning_of_close_points_at_the_users_line(create, monkeypatch):
    monkeypatch.setattr("queue_eval.campaign.replicas.PATIENCE_S", 0.1)
    evaluator = create(wait_replicas=1)
    with pytest.warns(UserWarning, match="replicas have confirmed") as caught:
        evaluator.close()  # HERE
    check_points_here(caught.list)


def test_every_warning_goes_through_one_place():
    files = [path for path in (ROOT / "queue_eval").rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert [path.name for path in files] == ["user_warning.py"]
