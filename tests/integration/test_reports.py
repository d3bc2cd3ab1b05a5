"""Reports of running jobs as a driver gets them, and early stop."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import threading
import time
from collections import Counter

import pytest

from queue_eval import Evaluator
from queue_eval.errors import SearchTerminationError
from queue_eval.model.states import Outcome
from tests.support.hand_worker import HandWorker
from tests.support.waiting import wait_until

FUNCTION = "tests.support.functions:run"


class Hears:
    """A callback that notes all it hears. `then(job, report)` is called at each report."""

    def __init__(self, then=lambda *_: None):
        self.then = then
        self.events = []
        self.jobs = {}
        self.threads = set()
        self.evaluator = None

    def on_report(self, job, report):
        self.events.append((job.id, report.attempt, report.step))
        self.jobs[job.id] = job
        self.threads.add(threading.get_ident())
        self.then(job, report)

    def on_done(self, job):
        self.events.append((job.id, "done"))

    def of(self, job):
        return [event[1:] for event in self.events if event[0] == job.id]


@pytest.fixture
def open_driver(server, campaign):
    """Opens the campaign for the callbacks that are given. A later one stands for a later life."""
    opened = []

    def start(*callbacks, **more):
        keywords = {"home": server, "campaign": campaign, "local_workers": False}
        evaluator = Evaluator.create(FUNCTION, "process", keywords | {"callbacks": list(callbacks)} | more)
        opened.append(evaluator)
        for callback in callbacks:
            callback.evaluator = evaluator
        return evaluator

    yield start
    for evaluator in opened:
        evaluator.close()


@pytest.fixture
def open_worker(server, campaign):
    opened = []

    def start():
        opened.append(HandWorker(server, campaign))
        return opened[-1]

    yield start
    for worker in opened:
        worker.close()


def configs(count):
    return [{"x": x} for x in range(count)]


def in_background(function):
    """Call it in a thread. Returns a function that gives what it returned, or raises what it raised."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(60)
        assert not thread.is_alive()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result


def test_each_report_comes_once_in_order_and_before_the_end(open_driver, open_worker):
    hears = Hears()
    driver = open_driver(hears)
    jobs = driver.submit(configs(2))
    worker = open_worker()
    first, second = worker.lease()
    worker.report(first, (1, {"loss": 0.5}), (2, {"loss": math.nan, "size": 3}))
    worker.report(second, (1, {"loss": math.inf}))
    gathered = in_background(lambda: driver.gather("ALL", timeout=60))
    wait_until(lambda: len(hears.events) == 3)
    worker.report(first, (2, {"loss": 0.25}))
    wait_until(lambda: len(hears.events) == 4)  # live: the job runs
    worker.finish(first)
    worker.report(second, (7, {"loss": 0.1}))
    worker.finish(second)
    assert gathered() == jobs
    assert hears.of(jobs[0]) == [(1, 1), (1, 2), (1, 2), ("done",)]
    assert hears.of(jobs[1]) == [(1, 1), (1, 7), ("done",)]
    assert hears.jobs == {job.id: job for job in jobs}
    assert threading.get_ident() not in hears.threads
    assert len(hears.threads) == 1


def test_reports_of_a_job(open_driver, open_worker):
    driver = open_driver()
    (job, silent) = driver.submit(configs(2))
    worker = open_worker()
    lease, other = worker.lease()
    worker.report(lease, (1, {"loss": 0.5}), base_ms=1_800_000_000_000)
    assert [one.step for one in driver.reports(job)] == [1]
    assert [one.step for one in job.reports] == [1]
    worker.report(lease, (2, {"loss": math.nan, "size": 3}))
    worker.finish(lease)
    worker.finish(other)
    driver.gather("ALL", timeout=60)
    first, second = job.reports
    assert (first.step, first.values, first.attempt) == (1, {"loss": 0.5}, 1)
    assert first.at.isoformat() == "2027-01-15T08:00:01+00:00"
    assert math.isnan(second.values["loss"])
    assert second.values["size"] == 3
    assert silent.reports == driver.reports(silent) == []
    driver.close()
    unread = copy.copy(silent)
    assert unread.reports == []
    assert [one.step for one in driver.reports(job)] == [1, 2]  # what was gathered stays readable
    assert [one.step for one in pickle.loads(pickle.dumps(job)).reports] == [1, 2]
    assert [one.step for one in copy.deepcopy(job).reports] == [1, 2]


def test_a_job_is_first_asked_for_its_reports_after_closing(open_driver, open_worker):
    driver = open_driver()
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 0.5}))
    worker.finish(lease)
    driver.gather("ALL", timeout=60)
    driver.close()
    assert [one.step for one in job.reports] == [1]


def test_no_reports_are_read_for_callbacks_that_want_none(open_driver, open_worker):
    class OnlyDone:
        def on_done(self, job):
            pass

    driver = open_driver(OnlyDone())
    assert driver._session.ledger.reports is None
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 0.5}))
    worker.finish(lease)
    assert driver.gather("ALL", timeout=60) == [job]


def test_a_driver_that_comes_back_hears_all_of_what_it_adopts(open_driver, open_worker):
    before = Hears()
    first_life = open_driver(before)
    first_life.submit(configs(3))
    worker = open_worker()
    finished, running, waiting = worker.lease()
    worker.report(finished, (1, {"loss": 1}))
    worker.finish(finished)
    worker.report(running, (1, {"loss": 1}), (2, {"loss": 0.5}))
    assert len(first_life.gather("BATCH", 1, timeout=60)) == 1
    first_life.close()

    hears = Hears()
    driver = open_driver(hears, reuse=False)
    assert driver.num_outstanding == 2
    gathered = in_background(lambda: driver.gather("ALL", timeout=60))
    wait_until(lambda: len(hears.events) == 2)
    worker.report(running, (3, {"loss": 0.25}))
    wait_until(lambda: len(hears.events) == 3)
    worker.report(waiting, (1, {"loss": 9}))
    worker.finish(running)
    worker.finish(waiting)
    jobs = {job.id: job for job in gathered()}
    assert hears.of(jobs[running.id]) == [(1, 1), (1, 2), (1, 3), ("done",)]
    assert hears.of(jobs[waiting.id]) == [(1, 1), ("done",)]
    assert hears.jobs == jobs
    assert jobs[running.id].own_config() == {"x": 1}


def test_joined_jobs_are_heard_too_also_finished_ones(open_driver, open_worker):
    first_life = open_driver()
    first_life.submit(configs(2))
    worker = open_worker()
    finished, running = worker.lease()
    worker.report(finished, (1, {"loss": 1}), (2, {"loss": 1}))
    worker.finish(finished)
    worker.report(running, (1, {"loss": 1}))
    first_life.close()

    hears = Hears()
    driver = open_driver(hears)
    jobs = driver.submit(configs(2))
    assert driver.gather("BATCH", 1, timeout=60) == jobs[:1]
    worker.finish(running)
    assert driver.gather("ALL", timeout=60) == jobs[1:]
    assert hears.of(jobs[0]) == [(1, 1), (1, 2), ("done",)]
    assert hears.of(jobs[1]) == [(1, 1), ("done",)]


def test_every_attempt_of_a_job_is_heard(open_driver, open_worker):
    hears = Hears()
    driver = open_driver(hears, max_attempts=2, retry_delay=0)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 1}))
    worker.finish(lease, "Traceback\nKeyError", Outcome.ERROR)
    (again,) = wait_until(worker.lease)
    assert not worker.report(lease, (2, {"loss": 1}))  # a late word of the first attempt
    worker.report(again, (1, {"loss": 2}))
    worker.finish(again)
    driver.gather("ALL", timeout=60)
    assert hears.of(job) == [(1, 1), (2, 1), ("done",)]
    assert [one.attempt for one in job.reports] == [1, 2]


def test_several_threads_wait_and_each_report_comes_once(open_driver, open_worker):
    inside = []

    def alone(*_):
        inside.append(1)
        assert len(inside) == 1
        inside.pop()

    hears = Hears(alone)
    driver = open_driver(hears)
    jobs = driver.submit(configs(20))
    gathered = [in_background(lambda: list(driver.as_completed(timeout=60))) for _ in range(3)]
    worker = open_worker()
    for lease in worker.lease():
        for step in range(5):
            worker.report(lease, (step, {"loss": 1}))
        worker.finish(lease)
    batches = [result() for result in gathered]
    assert Counter(job.id for batch in batches for job in batch) == Counter(job.id for job in jobs)
    for job in jobs:
        assert hears.of(job) == [*((1, step) for step in range(5)), ("done",)]


def test_a_callback_that_raises_costs_nothing(open_driver, open_worker):
    def breaks(*_):
        raise KeyError("oops")

    breaking, hears = Hears(breaks), Hears()
    driver = open_driver(breaking, hears)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 1}), (2, {"loss": 1}))
    worker.finish(lease)
    with pytest.warns(UserWarning, match=r"Hears\.on_report raised for job 1, which goes on: KeyError"):
        assert driver.gather("ALL", timeout=60) == [job]
    assert hears.of(job) == breaking.of(job) == [(1, 1), (1, 2), ("done",)]


def ends_at(step):
    def end(_, report):
        if report.step == step:
            raise SearchTerminationError("enough")

    return end


def test_a_callback_ends_the_search_while_jobs_run(open_driver, open_worker):
    hears = Hears(ends_at(2))
    driver = open_driver(hears)
    finished, running = driver.submit(configs(2))
    worker = open_worker()
    first, second = worker.lease()
    worker.finish(first)
    driver._session.read(0)  # the driver knows of it
    worker.report(second, (1, {"loss": 1}), (2, {"loss": 1}), (3, {"loss": 1}))
    with pytest.raises(SearchTerminationError, match="enough"):
        driver.gather("ALL", timeout=60)
    assert driver.jobs_done == [finished]
    worker.finish(second)
    assert driver.gather("ALL", timeout=60) == [running]
    assert hears.of(running) == [(1, 1), (1, 2), (1, 3), ("done",)]


def test_a_callback_ends_a_search_by_as_completed_and_by_execute(open_driver, open_worker):
    hears = Hears(ends_at(2))
    driver = open_driver(hears)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (2, {"loss": 1}))
    with pytest.raises(SearchTerminationError, match="enough"):
        next(driver.as_completed(timeout=60))
    worker.finish(lease)
    assert next(driver.as_completed(timeout=60)) is job

    single = driver.create_job({"x": 5})

    async def execute():
        await driver.execute(single)

    executed = in_background(lambda: asyncio.run(execute()))
    (lease,) = wait_until(worker.lease)
    worker.report(lease, (2, {"loss": 1}))
    with pytest.raises(SearchTerminationError, match="enough"):
        executed()
    worker.finish(lease)
    assert driver.gather("ALL", timeout=60) == [single]


def test_an_awaited_job_is_heard(open_driver, open_worker):
    hears = Hears()
    driver = open_driver(hears)
    single = driver.create_job({"x": 5})

    async def execute():
        return await driver.execute(single)

    executed = in_background(lambda: asyncio.run(execute()))
    worker = wait_until(open_worker)
    (lease,) = wait_until(worker.lease)
    worker.report(lease, (1, {"loss": 1}))
    worker.report(lease, (2, {"loss": 1}))
    worker.finish(lease)
    assert executed() is single
    assert hears.of(single) == [(1, 1), (1, 2), ("done",)]


def test_a_callback_may_call_the_evaluator(open_driver, open_worker):
    """It stops one job, cancels another and submits a third, then gathers itself."""
    done = []

    def act(job, report):
        evaluator = hears.evaluator
        if report.step == 1:
            assert evaluator.stop([job]) == 1
            assert [one.step for one in evaluator.reports(job)] == [1]
        elif report.step == 2:
            assert evaluator.cancel([job]) == 1
            evaluator.submit([{"x": 99}])
        elif report.step == 3:
            done.extend(evaluator.gather("BATCH", 1, timeout=60))

    hears = Hears(act)
    driver = open_driver(hears)
    stopped, cancelled = driver.submit(configs(2))
    worker = open_worker()
    first, second = worker.lease()
    gathered = in_background(lambda: driver.gather("ALL", timeout=60))
    worker.report(first, (1, {"loss": 1}))
    wait_until(lambda: worker.is_stopped(first))
    worker.report(second, (2, {"loss": 1}))
    (third,) = wait_until(worker.lease)
    worker.finish(first, 7, Outcome.STOPPED)
    worker.report(third, (3, {"loss": 1}))
    worker.finish(third)
    rest = gathered()
    assert {job.id for job in [*done, *rest]} == {1, 2, 3}
    assert (stopped.state, stopped.result, stopped.cause) == ("succeeded", 7, None)
    assert stopped.stopped_early
    assert (cancelled.state, cancelled.stopped_early) == ("cancelled", False)


def test_stop_asks_what_has_begun(open_driver, open_worker):
    driver = open_driver()
    jobs = driver.submit(configs(4))
    worker = open_worker()
    assert driver.stop() == 0
    first, second = worker.lease(2)
    worker.report(first, looks=True)
    assert driver.stop(jobs) == 2
    assert driver.stop() == 2
    assert driver.stop([jobs[0]]) == 1
    assert driver.stop([]) == 0
    assert worker.is_stopped(first)
    worker.finish(first, 7, Outcome.STOPPED)
    worker.finish(second, 8)  # it does not look
    assert {job.id for job in driver.gather("BATCH", 2, timeout=60)} == {1, 2}
    assert [job.stopped_early for job in jobs] == [True, False, False, False]
    assert [job.cause for job in jobs[:2]] == [None, None]
    assert driver.stop(jobs) == 0
    driver.close()
    again = open_driver(reuse=False)  # it has adopted two
    (third,) = worker.lease(1)
    assert again.stop() == 1
    assert worker.is_stopped(third)


def test_what_no_wait_has_had_time_for_comes_in_the_next(open_driver, open_worker):
    hears = Hears()
    driver = open_driver(hears)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, *((step, {"loss": 1}) for step in range(100)))
    worker.finish(lease)
    assert driver.gather("ALL", timeout=0) in ([], [job])
    driver.gather("ALL", timeout=60)
    assert hears.of(job) == [*((1, step) for step in range(100)), ("done",)]


def test_who_polls_gets_all(open_driver, open_worker):
    hears = Hears(lambda *_: time.sleep(0.002))
    driver = open_driver(hears)
    jobs = driver.submit(configs(2))
    worker = open_worker()
    for lease in worker.lease():
        worker.report(lease, *((step, {"loss": 1}) for step in range(100)))
        worker.finish(lease)
    gathered = []
    wait_until(lambda: gathered.extend(driver.gather("ALL", timeout=0)) or len(gathered) == 2)
    for job in jobs:
        assert hears.of(job) == [*((1, step) for step in range(100)), ("done",)]


def test_a_lost_connection_repeats_nothing(open_driver, open_worker):
    hears = Hears()
    driver = open_driver(hears)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    for step in range(5):
        worker.report(lease, (step, {"loss": 1}))
        driver.gather("BATCH", 1, timeout=0.05)
        driver._session.queue.link._begin_epoch()
    worker.finish(lease)
    assert driver.gather("ALL", timeout=60) == [job]
    assert hears.of(job) == [*((1, step) for step in range(5)), ("done",)]


def test_more_than_is_held_at_once(open_driver, open_worker, monkeypatch):
    monkeypatch.setattr("queue_eval.driver.report_queue.MOST_WAITING", 10)
    hears = Hears()
    first_life = open_driver()
    first_life.submit(configs(8))
    worker = open_worker()
    leases = worker.lease()
    for lease in leases:
        worker.report(lease, *((step, {"loss": 1}) for step in range(7)))
    first_life.close()
    driver = open_driver(hears)
    for lease in leases[::2]:
        worker.finish(lease)
    jobs = driver.submit(configs(8))
    for lease in leases[1::2]:
        worker.finish(lease)
    assert len(driver.gather("ALL", timeout=60)) == 8
    for job in jobs:
        assert hears.of(job) == [*((1, step) for step in range(7)), ("done",)]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_job_that_is_adopted_and_then_joined_is_heard_once(open_driver, open_worker, keeps):
    first_life = open_driver()
    first_life.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 1}))
    first_life.close()
    hears = Hears()
    driver = open_driver(hears, keep_jobs=keeps)
    worker.finish(lease)
    (adopted,) = driver.gather("ALL", timeout=60)
    driver.submit(configs(1))
    (joined,) = driver.gather("ALL", timeout=60)
    assert joined.id == adopted.id
    assert hears.of(adopted) == [(1, 1), ("done",), ("done",)]


def test_a_look_at_the_jobs_keeps_the_order(open_driver, open_worker):
    """`refresh` learns of an outcome; its callbacks run in the next wait, the reports first."""
    hears = Hears()
    driver = open_driver(hears)
    (job,) = driver.submit(configs(1))
    worker = open_worker()
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 1}), (2, {"loss": 1}))
    worker.finish(lease)
    driver.refresh([job])
    assert job.state == "succeeded"
    assert hears.events == []
    assert next(driver.as_completed()) is job
    assert hears.of(job) == [(1, 1), (1, 2), ("done",)]
