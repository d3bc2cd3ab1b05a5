"""Taking many jobs costs each of them the same, counted rather than timed."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_eval import Evaluator, Job, SearchTerminationError, ThreadPoolEvaluator
from queue_eval.driver import awaited
from queue_eval.driver.callbacks import Callback
from tests.support.waiting import wait_until

JOBS = 400
STEPS = 4
"""So many entries may be gone through for each job."""


@pytest.fixture
def create(server: Path, campaign: str) -> Iterator[Callable[..., Evaluator]]:
    """Evaluators on the session's server, without workers of their own."""
    made: list[Evaluator] = []

    def create(**keywords: Any) -> Evaluator:
        keywords = {"campaign": campaign, "home": server, "local_workers": False} | keywords
        made.append(ThreadPoolEvaluator("tests.support.functions:run", **keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


class Steps:
    """Counts the entries that are gone through in the places of a ledger.

    A plain dict keeps gaps for removed entries until it grows, and whoever goes through it steps over them.
    An ordered dict leaves none.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.count = 0
        for name in ("ready", "waiting", "joined", "tracked"):
            setattr(evaluator._ledger, name, self._counted(getattr(evaluator._ledger, name)))

    def _counted(self, place: dict[int, Any]) -> dict[int, Any]:
        steps = self
        leaves_gaps = not isinstance(place, OrderedDict)

        class Counted(type(place)):  # type: ignore[misc]
            gaps = 0

            def __delitem__(self, key: int) -> None:
                super().__delitem__(key)
                self.gaps += leaves_gaps

            def pop(self, key: int, *default: Any) -> Any:
                self.gaps += leaves_gaps and key in self
                return super().pop(key, *default)

            def __iter__(self) -> Iterator[int]:
                steps.count += self.gaps
                for key in super().__iter__():
                    steps.count += 1
                    yield key

            def keys(self) -> Iterator[int]:
                return iter(self)

            def values(self) -> Iterator[Any]:
                return (self[key] for key in self)

            def items(self) -> Iterator[tuple[int, Any]]:
                return ((key, self[key]) for key in self)

        return Counted(place)


class StopsAlways(Callback):
    def on_done(self, job: Job) -> None:
        raise SearchTerminationError(str(job.id))


def configs(count: int) -> list[dict[str, Any]]:
    return [{"x": x} for x in range(count)]


def finish(create: Callable[..., Evaluator], fake_worker: Callable[..., Any], count: int) -> None:
    """A life of the campaign in which all are finished, the second half first."""
    with create() as evaluator:
        all_ = configs(count)
        evaluator.submit(all_[: count // 2])
        evaluator.submit(all_[count // 2 :], priority=1)
        worker = fake_worker(evaluator.campaign)
        assert len(evaluator.gather("ALL", timeout=60)) == count
        worker.close()


def take_again_and_again(evaluator: Evaluator) -> Iterator[int]:
    """Each job ends the loop that takes it, and the next loop goes on."""
    while evaluator.num_outstanding:
        with pytest.raises(SearchTerminationError) as stopped:
            list(evaluator.as_completed())
        yield int(str(stopped.value))


@pytest.mark.parametrize("taking", ["as_completed", "gather", "early stopping"])
def test_a_resumed_script_takes_each_job_with_as_many_steps(create, fake_worker, taking):
    finish(create, fake_worker, JOBS)
    evaluator = create(callbacks=[StopsAlways()] if taking == "early stopping" else [])
    steps = Steps(evaluator)
    evaluator.submit(configs(JOBS))
    if taking == "early stopping":
        taken = list(take_again_and_again(evaluator))
    else:
        jobs = evaluator.gather("ALL") if taking == "gather" else evaluator.as_completed()
        taken = [job.id for job in jobs]
    assert taken == [entry.id for entry in evaluator._session.queue.read_after("0-0")]
    assert taken[0] == JOBS // 2 + 1
    assert steps.count <= STEPS * JOBS


def test_jobs_that_are_cancelled_one_by_one_meanwhile_are_taken_with_as_many_steps(create):
    evaluator = create()
    steps = Steps(evaluator)
    jobs = evaluator.submit(configs(JOBS))
    assert evaluator.cancel(jobs[: JOBS // 2]) == JOBS // 2
    rest = iter(jobs[JOBS // 2 :])
    taken = []
    for job in evaluator.as_completed():
        taken.append(job.id)
        assert evaluator.cancel([one for one in [next(rest, None)] if one]) == (len(taken) <= JOBS // 2)
    assert taken == [job.id for job in jobs]
    assert steps.count <= STEPS * JOBS


def test_a_resumed_script_whose_log_is_gone_gives_up_each_job_with_as_many_steps(create, fake_worker):
    count = 2500  # several pages
    finish(create, fake_worker, count)
    evaluator = create()
    queue = evaluator._session.queue
    queue.link.client.xtrim(queue.keys.results, maxlen=0, approximate=False)
    steps = Steps(evaluator)
    evaluator.submit(configs(count))
    jobs = evaluator.gather("ALL", timeout=60)
    assert len(jobs) == count
    assert {job.error for job in jobs} == {jobs[0].error}
    assert "damaged" in jobs[0].error
    assert steps.count <= STEPS * count


def test_a_created_job_that_is_executed_is_compared_with_no_other(create, fake_worker, monkeypatch):
    compared = []

    def is_same(one: Job, other: object) -> bool:
        compared.append(one)
        return one is other

    evaluator = create()
    fake_worker(evaluator.campaign)
    jobs = [evaluator.create_job(config) for config in configs(50)]
    monkeypatch.setattr(Job, "__eq__", is_same, raising=False)

    async def main() -> None:
        await asyncio.gather(*(evaluator.execute(job) for job in reversed(jobs)))

    asyncio.run(main())
    assert all(job.result == 10 * job.config["x"] for job in jobs)
    assert len(compared) <= STEPS * len(jobs)


class OneByOne:
    """A waiter that has one job finished between two looks whether that is enough."""

    def __init__(self) -> None:
        self.watchers: list[tuple[Callable[[Job], bool], Job]] = []
        self.may_begin = threading.Event()
        self.has_ended = threading.Event()

    def until(self, enough: Callable[[], bool], *_: object, **__: object) -> None:
        assert self.may_begin.wait(20)
        for watcher, job in self.watchers:
            assert not enough()
            assert watcher(job)
        assert enough()
        self.has_ended.set()


def test_whether_awaited_jobs_are_finished_is_asked_with_as_many_steps(monkeypatch):
    looks = []

    class Watched(awaited._Future):
        @property
        def is_finished(self) -> bool:
            looks.append(self)
            return self._is_finished

        @is_finished.setter
        def is_finished(self, value: bool) -> None:
            self._is_finished = value

    monkeypatch.setattr(awaited, "_Future", Watched)
    waiter = OneByOne()
    singles = awaited.SingleJobs(waiter)

    async def main() -> None:
        jobs = [Job(number + 1, {}, None) for number in range(JOBS)]

        def submit(job: Job) -> Callable[[Any], None]:
            return lambda watcher: waiter.watchers.append((watcher, job))

        tasks = [asyncio.ensure_future(singles.run(job, submit(job), lambda _: None)) for job in jobs]
        while len(singles._awaited) < JOBS:
            await asyncio.sleep(0)
        waiter.may_begin.set()
        assert waiter.has_ended.wait(20)  # the loop stands still meanwhile, and forgets no job
        await asyncio.gather(*tasks)

    asyncio.run(main())
    wait_until(lambda: singles._thread is None)
    singles.close()
    assert len(looks) <= STEPS * JOBS
