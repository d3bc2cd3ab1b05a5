"""A driver against a real server; workers are played by threads of the test."""

from __future__ import annotations

import asyncio
import csv
import threading

import pytest

from queue_eval import (
    CampaignConflictError,
    CampaignNotFoundError,
    ConfigError,
    Evaluator,
    FunctionError,
    JobFailed,
    RayEvaluator,
    RQEvaluator,
    SearchTerminationError,
    ServerUnreachableError,
    ThreadPoolEvaluator,
    UsageError,
)
from queue_eval.driver.callbacks import Callback, ProfilingCallback
from queue_eval.driver.evaluator import Evaluator as Base
from queue_eval.model.codec import FAIL_RETURN_VALUE
from tests.support.waiting import wait_until

NAME = "tests.support.functions:run"


@pytest.fixture
def create(server, campaign):
    """Evaluators on the session's server, without workers of their own."""
    made = []

    def create(run_function=NAME, **keywords):
        keywords = {"campaign": campaign, "home": server, "local_workers": False} | keywords
        made.append(ThreadPoolEvaluator(run_function, **keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


def configs(n, start=0):
    return [{"x": x} for x in range(start, start + n)]


def ids(jobs):
    return [job.id for job in jobs]


# Submitting and gathering -----------------------------------------------------------------------------------


def test_all_that_is_submitted_is_gathered_once(create, fake_worker):
    evaluator = create()
    jobs = evaluator.submit(configs(30))
    assert ids(jobs) == list(range(1, 31))
    assert {job.status for job in jobs} == {1}
    assert (evaluator.num_submitted, evaluator.num_outstanding, evaluator.num_gathered) == (30, 30, 0)
    fake_worker(evaluator.campaign)
    gathered = evaluator.gather("ALL")
    assert sorted(ids(gathered)) == ids(jobs)
    assert all(any(job is other for other in jobs) for job in gathered)
    assert all(job.result == job.config["x"] * 10 for job in gathered)
    assert evaluator.gather("ALL") == []
    assert (evaluator.num_submitted, evaluator.num_outstanding, evaluator.num_gathered) == (30, 0, 30)
    assert evaluator.jobs_done == gathered
    assert sorted(ids(evaluator.jobs)) == ids(jobs)


def test_what_a_finished_job_tells(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(1))
    worker = fake_worker(evaluator.campaign)
    (job,) = evaluator.gather("ALL")
    assert (job.status, job.state, job.attempts, job.error, job.cause) == (2, "succeeded", 1, None, None)
    assert (job.worker, job.host, job.source) == (worker.name, "box", "abc")
    assert job.submitted_at <= job.started_at <= job.finished_at
    assert 0 <= job.duration <= job.elapsed_sec < 60
    assert job.run_function == NAME


def test_a_batch_is_a_minimum(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(10))
    fake_worker(evaluator.campaign, room=10)
    wait_until(lambda: evaluator._session.queue.standing().finished == 10)
    assert len(evaluator.gather("BATCH", size=3)) == 10


def test_a_batch_waits_for_its_size(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(2))
    fake_worker(evaluator.campaign)
    threading.Timer(0.2, lambda: evaluator.submit(configs(2, start=2))).start()
    assert len(evaluator.gather("BATCH", size=2)) >= 2
    wait_until(lambda: evaluator.num_submitted == 4)
    evaluator.gather("ALL")
    assert evaluator.num_gathered == 4


def test_a_batch_larger_than_what_is_outstanding(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(3))
    fake_worker(evaluator.campaign)
    words = r"Requested a batch size \(10\) larger than currently running tasks \(3\)\. "
    with pytest.warns(UserWarning, match=words):
        assert len(evaluator.gather("BATCH", size=10)) == 3


def test_nothing_outstanding(create):
    evaluator = create()
    assert evaluator.submit([]) == []
    assert evaluator.gather("ALL") == evaluator.gather("BATCH", 1) == list(evaluator.as_completed()) == []


def test_unknown_gather_operation(create):
    with pytest.raises(AssertionError, match=r"Unsupported gather operation: FOO\."):
        create().gather("FOO")


def test_a_timeout_returns_what_there_is(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(2))
    assert evaluator.gather("ALL", timeout=0) == []
    assert evaluator.gather("ALL", timeout=0.05) == []
    fake_worker(evaluator.campaign)
    wait_until(lambda: evaluator._session.queue.standing().finished == 2)
    evaluator.submit(configs(1, start=5), delay=1000)
    assert len(evaluator.gather("ALL", timeout=0)) == 2
    assert evaluator.num_outstanding == 1


def test_as_completed(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(5))
    fake_worker(evaluator.campaign, room=2)
    iterator = evaluator.as_completed()
    first = next(iterator)
    assert evaluator.num_gathered == 1
    evaluator.submit(configs(1, start=5))
    rest = list(iterator)
    assert sorted(ids([first, *rest])) == [1, 2, 3, 4, 5, 6]


def test_as_completed_ends_at_its_timeout(create):
    evaluator = create()
    evaluator.submit(configs(1))
    assert list(evaluator.as_completed(timeout=0.05)) == []


def test_a_gather_ends_in_time_when_each_reading_is_to_be_made_again(create, monkeypatch):
    """As when something between driver and server cuts off what blocks, and nothing else."""
    evaluator = create()
    evaluator.submit(configs(1))
    monkeypatch.setattr(evaluator._session, "read", lambda _block_s: True)
    assert evaluator.gather("ALL", timeout=0.3) == []


def test_as_completed_left_early_loses_nothing(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(5))
    fake_worker(evaluator.campaign, room=5)
    for _ in evaluator.as_completed():
        break
    assert len(evaluator.gather("ALL")) == 4


def test_higher_priority_first_and_first_in_first_out(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(2))
    evaluator.submit(configs(2, start=2), priority=5)
    evaluator.submit(configs(1, start=4), priority=-1)
    worker = fake_worker(evaluator.campaign, room=1)
    evaluator.gather("ALL")
    assert worker.runs == [3, 4, 1, 2, 5]


def test_a_delayed_job_is_scheduled(create, fake_worker):
    evaluator = create()
    (job,) = evaluator.submit(configs(1), delay=0.3)
    assert job.state == "scheduled"
    fake_worker(evaluator.campaign)
    (job,) = evaluator.gather("ALL")
    assert job.wait_s >= 0.25


def test_all_configs_are_checked_before_any_is_sent(create):
    evaluator = create()
    with pytest.raises(ConfigError, match='config 1: "x" is an object'):
        evaluator.submit([{"x": 1}, {"x": object()}])
    assert (evaluator.num_submitted, evaluator._session.queue.standing().last_id) == (0, 0)


@pytest.mark.parametrize("words", [
    {"priority": 40000}, {"priority": -40000}, {"priority": 1.5}, {"delay": -1}, {"delay": float("nan")},
    {"delay": 1e12}, {"delay": "1"},
])  # fmt: skip
def test_impossible_submissions(create, words):
    with pytest.raises(UsageError, match=next(iter(words))):
        create().submit(configs(1), **words)


def test_a_dict_is_not_a_list_of_configs(create):
    with pytest.raises(UsageError, match="list of dicts"):
        create().submit({"x": 1})


def test_failures_are_values(create, fake_worker):
    evaluator = create()
    evaluator.submit([{"y": 1}, {"x": 1}])
    fake_worker(evaluator.campaign)
    failed, fine = sorted(evaluator.gather("ALL"), key=lambda job: job.id)
    assert (failed.state, failed.cause, failed.result) == ("failed", "error", FAIL_RETURN_VALUE)
    assert "KeyError: 'x'" in failed.error
    assert fine.result == 10


def test_failures_can_raise_after_the_batch_is_recorded(create, fake_worker, tmp_path):
    evaluator = create(on_failure="raise")
    evaluator.submit([{"y": 1}, {"x": 1}])
    fake_worker(evaluator.campaign, room=2)
    with pytest.raises(JobFailed, match=r"job 1 failed \(error\): KeyError: 'x'") as error:
        evaluator.gather("ALL")
    assert error.value.job.id == 1
    assert sorted(ids(error.value.batch)) == sorted(ids(evaluator.jobs_done)) == [1, 2]
    assert evaluator.gather("ALL") == []


def test_results_of_every_kind(create, fake_worker):
    values = [None, True, "it's", [1, {"a": None}], {"objective": 1}, 10**20, 1.5]
    evaluator = create()
    evaluator.submit([{"v": value} for value in values])
    fake_worker(evaluator.campaign, lambda config: config["v"])
    assert [job.result for job in sorted(evaluator.gather("ALL"), key=lambda job: job.id)] == values


def test_ten_thousand_jobs(create, fake_worker):
    evaluator = create(reuse=False)
    evaluator.submit(configs(10_000))
    fake_worker(evaluator.campaign, room=1000)
    assert len({job.id for job in evaluator.gather("ALL")}) == 10_000


# Awaiting ---------------------------------------------------------------------------------------------------


def test_execute_many_at_once(create, fake_worker):
    evaluator = create()
    fake_worker(evaluator.campaign)

    async def main():
        jobs = [evaluator.create_job({"x": x}) for x in range(40)]
        assert ids(jobs) == list(range(1, 41))
        assert {job.status for job in jobs} == {0}
        done = await asyncio.gather(*(evaluator.execute(job) for job in jobs))
        assert all(one is other for one, other in zip(jobs, done, strict=True))
        return done

    jobs = asyncio.run(main())
    assert [job.result for job in jobs] == [10 * x for x in range(40)]
    assert sorted(ids(jobs)) == list(range(1, 41))
    assert all(job.config["id"] == job.id for job in jobs)
    assert evaluator.gather("ALL") == []
    assert evaluator.num_gathered == 40
    assert len(evaluator.jobs) == 40


def test_execute_beside_gather(create, fake_worker):
    evaluator = create()
    submitted = evaluator.submit(configs(10))

    async def main():
        one = asyncio.create_task(evaluator.execute(evaluator.create_job({"x": 77})))
        gathering = asyncio.create_task(asyncio.to_thread(evaluator.gather, "ALL"))
        await asyncio.sleep(0)
        fake_worker(evaluator.campaign)
        return await one, await gathering

    job, gathered = asyncio.run(main())
    assert job.result == 770
    assert job not in gathered
    assert sorted(ids(gathered)) == ids(submitted)


def test_a_cancelled_wait_leaves_the_job_to_gather(create, fake_worker):
    evaluator = create()

    async def main():
        task = asyncio.create_task(evaluator.execute(evaluator.create_job({"x": 1})))
        while not evaluator.num_outstanding:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    fake_worker(evaluator.campaign)
    assert ids(evaluator.gather("ALL")) == [1]


@pytest.mark.parametrize("keep_jobs", [True, False])
def test_a_wait_that_is_cancelled_as_its_job_finishes_leaves_it_to_gather(create, fake_worker, keep_jobs):
    """The job is counted as awaited, and the one who awaited it has not been told yet."""
    evaluator = create(keep_jobs=keep_jobs)

    async def main():
        task = asyncio.create_task(evaluator.execute(evaluator.create_job({"x": 1})))
        while not evaluator._singles._awaited:
            await asyncio.sleep(0.005)
        fake_worker(evaluator.campaign)
        wait_until(lambda: evaluator.num_gathered)  # the loop stands still meanwhile
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (evaluator.num_outstanding, evaluator.num_gathered, evaluator.jobs_done) == (1, 0, [])
    (job,) = evaluator.gather("ALL")
    assert (job.id, job.result) == (1, 10)
    assert (evaluator.num_outstanding, evaluator.num_gathered) == (0, 1)
    assert evaluator.gather("ALL") == []


def test_a_wait_whose_loop_has_stopped_leaves_the_job_to_gather(create, fake_worker):
    evaluator = create()
    loop = asyncio.new_event_loop()
    task = loop.create_task(evaluator.execute(evaluator.create_job({"x": 1})))

    async def until_submitted():
        while not evaluator._singles._awaited:
            await asyncio.sleep(0.005)

    loop.run_until_complete(until_submitted())
    task._log_destroy_pending = False  # asyncio complains of it, with reason
    loop.close()
    fake_worker(evaluator.campaign)
    assert ids(evaluator.gather("ALL")) == [1]


def test_synchronous_calls_within_a_running_loop(create, fake_worker):
    evaluator = create()
    fake_worker(evaluator.campaign)

    async def main():
        evaluator.submit(configs(3))
        return evaluator.gather("ALL")

    assert len(asyncio.run(main())) == 3


def test_several_threads_gather_each_job_once(create, fake_worker):
    evaluator = create(reuse=False)
    evaluator.submit(configs(3000))
    found: list[int] = []

    def gather():
        while evaluator.num_outstanding:
            found.extend(ids(evaluator.gather("BATCH", 1)))

    threads = [threading.Thread(target=gather) for _ in range(4)]
    for thread in threads:
        thread.start()
    fake_worker(evaluator.campaign, room=50)
    for _ in range(10):
        evaluator.submit(configs(50))
    for thread in threads:
        thread.join(30)
    found.extend(ids(evaluator.gather("ALL")))
    assert sorted(found) == list(range(1, 3501))


# Callbacks --------------------------------------------------------------------------------------------------


def test_callbacks_see_every_job(create, fake_worker):
    profiler = ProfilingCallback()
    evaluator = create(callbacks=[profiler])
    evaluator.submit(configs(3))
    fake_worker(evaluator.campaign)
    evaluator.gather("ALL")
    assert list(profiler.profile["n_jobs_running"]) == [1, 2, 3, 2, 1, 0]


def test_a_search_ends_after_the_batch_is_recorded(create, fake_worker):
    class Ends(Callback):
        seen = 0

        def on_done(self, job):
            self.seen += 1
            raise SearchTerminationError

    callback = Ends()
    evaluator = create(callbacks=[callback])
    evaluator.submit(configs(3))
    fake_worker(evaluator.campaign, room=3)
    wait_until(lambda: evaluator._session.queue.standing().finished == 3)
    with pytest.raises(SearchTerminationError):
        evaluator.gather("ALL")
    assert (callback.seen, evaluator.num_gathered, evaluator.num_outstanding) == (3, 3, 0)


def test_a_broken_callback_loses_no_job(create, fake_worker):
    class Broken(Callback):
        def on_launch(self, job):
            raise ValueError("launch")

        def on_done(self, job):
            raise ValueError("done")

    evaluator = create(callbacks=[Broken()])
    with pytest.warns(UserWarning, match="launch"):
        evaluator.submit(configs(1))
    fake_worker(evaluator.campaign)
    with pytest.warns(UserWarning, match="done"):
        assert len(evaluator.gather("ALL")) == 1


# Resuming ---------------------------------------------------------------------------------------------------


def test_a_life_adopts_what_an_earlier_one_left(create, fake_worker):
    first = create()
    first.submit(configs(6))
    first.close()
    second = create()
    assert (second.num_outstanding, second.num_submitted, second.num_gathered) == (6, 0, 0)
    fake_worker(second.campaign)
    jobs = second.gather("ALL")
    assert sorted(ids(jobs)) == [1, 2, 3, 4, 5, 6]
    assert all(job.config == {"x": job.id - 1, "id": job.id} and job.submitted_at for job in jobs)
    assert second.num_outstanding == 0
    assert second.gather("ALL") == []


def test_running_a_script_again_evaluates_nothing_twice(create, fake_worker):
    first = create()
    worker = fake_worker(first.campaign)
    first.submit(configs(20))
    first.gather("ALL")
    first.close()
    second = create()
    jobs = second.submit(configs(20))
    assert second.num_outstanding == 20
    assert sorted(ids(second.gather("BATCH", 1))) == ids(jobs) == list(range(1, 21))
    assert sorted(worker.runs) == list(range(1, 21))
    assert (second.num_gathered, second.num_outstanding) == (20, 0)


def test_joining_an_adopted_job_counts_it_once(create, fake_worker):
    first = create()
    first.submit(configs(6))
    first.close()
    second = create()
    jobs = second.submit(configs(4))
    assert ids(jobs) == [1, 2, 3, 4]
    assert (second.num_outstanding, second.num_submitted) == (6, 4)
    fake_worker(second.campaign)
    assert sorted(ids(second.gather("ALL"))) == [1, 2, 3, 4, 5, 6]


def test_joining_an_adopted_job_that_has_just_finished(create, fake_worker):
    first = create()
    first.submit(configs(4))
    second = create()
    fake_worker(second.campaign)
    wait_until(lambda: second._session.queue.standing().finished == 4)
    second.submit(configs(2))
    assert second.num_outstanding == 4
    assert sorted(ids(second.gather("ALL"))) == [1, 2, 3, 4]
    assert second.gather("ALL") == []


def test_joining_a_job_that_was_already_gathered_as_adopted(create, fake_worker):
    first = create()
    first.submit(configs(2))
    second = create()
    fake_worker(second.campaign)
    assert len(second.gather("ALL")) == 2
    (again,) = second.submit(configs(1))
    assert again.id == 1
    assert second.gather("ALL") == [again]
    assert second.num_gathered == 2
    assert len(second.jobs_done) == 2


def test_equal_configs_join_one_after_the_other(create, fake_worker):
    first = create()
    first.submit([{"x": 1, "y": 2}] * 3)
    first.close()
    second = create()
    assert ids(second.submit([{"y": 2, "x": 1}] * 2)) == [1, 2]
    assert ids(second.submit([{"x": 1, "y": 2}] * 2)) == [3, 4]
    assert second.num_outstanding == 4
    fake_worker(second.campaign)
    assert len(second.gather("ALL")) == 4


def test_without_reuse_configs_are_evaluated_again(create, fake_worker):
    first = create(reuse=False)
    first.submit(configs(2))
    first.submit(configs(2))
    assert first.num_outstanding == 4
    first.close()
    second = create(reuse=True)
    assert ids(second.submit(configs(2) + configs(2))) == [1, 2, 3, 4]


def test_failed_jobs_are_not_tried_again_unless_retried(create, fake_worker):
    evaluator = create()
    evaluator.submit([{"y": 1}])
    fake_worker(evaluator.campaign, room=1)
    evaluator.gather("ALL")
    again = create()
    again.submit([{"y": 1}])
    (job,) = again.gather("ALL")
    assert job.state == "failed"


def test_a_retried_job_is_joined_with_its_new_outcome(create, fake_worker):
    first = create()
    first.submit([{"x": 1}])
    results = iter([ValueError("first"), None])

    def run(config):
        error = next(results)
        if error:
            raise error
        return "second"

    second = create()  # its cursor is before the first outcome
    fake_worker(first.campaign, run)
    first.gather("ALL")
    pause = second._session.queue
    pause.pause(True)
    assert pause.retry([1]) == [1]
    (job,) = second.submit([{"x": 1}])
    assert second.gather("ALL", timeout=0) == []
    pause.pause(False)
    assert second.gather("ALL") == [job]
    assert (job.state, job.result) == ("succeeded", "second")
    assert second.num_outstanding == 0


def test_an_adopted_job_that_fails_and_is_retried_is_gathered_once(create, fake_worker):
    first = create()
    first.submit([{"x": 1}, {"x": 2}])
    second = create()
    fake_worker(first.campaign, lambda config: 1 / 0)
    first.gather("ALL")
    second._session.queue.retry([1, 2])
    first.submit([{"x": 3}])
    wait_until(lambda: second._session.queue.standing().finished == 3)
    assert sorted(ids(second.gather("ALL"))) == [1, 2]
    assert second.num_outstanding == 0


def test_history_is_what_had_finished_before(create, fake_worker):
    first = create()
    worker = fake_worker(first.campaign, room=1)
    first.submit(configs(4))
    first.gather("ALL")
    worker.close()
    first.submit(configs(2, start=4))
    first.close()
    second = create()
    past = second.history()
    assert ids(past) == [1, 2, 3, 4]
    assert [job.result for job in past] == [0, 10, 20, 30]
    assert ids(second.history()) == ids(past)
    assert (second.num_gathered, second.num_outstanding) == (4, 2)
    second.submit(configs(3))
    fake_worker(second.campaign)
    assert sorted(ids(second.gather("ALL"))) == [1, 2, 3, 5, 6]
    assert second.num_gathered == 6
    assert sorted(ids(second.jobs_done)) == [1, 2, 3, 4, 5, 6]


def test_history_between_submission_and_gather(create, fake_worker):
    first = create()
    fake_worker(first.campaign)
    first.submit(configs(2))
    first.gather("ALL")
    profiler = ProfilingCallback()
    second = create(callbacks=[profiler])
    jobs = second.submit(configs(2))
    assert len(second.history()) == 2
    assert second.num_gathered == 2
    assert sorted(ids(second.gather("ALL"))) == ids(jobs)
    assert second.num_gathered == 2
    assert list(profiler.profile["n_jobs_running"]) == [1, 2, 1, 0]


def test_history_leaves_out_former_outcomes(create, fake_worker):
    first = create()
    first.submit([{"y": 1}, {"x": 1}])
    fake_worker(first.campaign, room=1)
    first.gather("ALL")
    first._session.queue.retry([1])
    wait_until(lambda: first._session.queue.standing().finished == 2)
    assert ids(create().history()) == [2, 1]


def test_two_drivers_each_gather_their_own(create, fake_worker):
    first, second = create(reuse=False), create(reuse=False)
    first.submit(configs(5))
    second.submit(configs(5, start=5))
    fake_worker(first.campaign)
    assert sorted(ids(first.gather("ALL"))) == [1, 2, 3, 4, 5]
    assert sorted(ids(second.gather("ALL"))) == [6, 7, 8, 9, 10]


def test_the_results_file_is_the_same_after_a_new_life(create, fake_worker, tmp_path):
    def read():
        with (tmp_path / "results.csv").open(newline="") as file:
            return sorted(csv.reader(file))

    first = create()
    fake_worker(first.campaign)
    first.dump_evals(log_dir=tmp_path)
    assert not (tmp_path / "results.csv").exists()
    first.submit(configs(3))
    first.gather("ALL")
    first.dump_evals(log_dir=tmp_path)
    before = read()
    first.dump_evals(log_dir=tmp_path)
    assert read() == before
    assert len(before) == 4
    second = create()
    second.submit(configs(3))
    second.gather("ALL")
    second.history()
    second.dump_evals(log_dir=tmp_path)
    assert read() == before


def test_a_campaign_without_a_name_is_new(create):
    first, second = create(campaign=None), create(campaign=None)
    assert first.campaign != second.campaign
    assert first.campaign.startswith("run-")
    assert not first._options.reuse


def test_another_function_is_a_conflict(create):
    create()
    with pytest.raises(CampaignConflictError, match=r"functions:run .*other\.module:go"):
        create("other.module:go")
    create("other.module:go", on_change="accept")


def test_another_method_is_a_conflict(server, create, campaign):
    create()
    with pytest.raises(CampaignConflictError, match=r"'thread'.*'process'"):
        Evaluator.create(NAME, "process", {"campaign": campaign, "home": server, "local_workers": False})


def test_changed_source_is_a_warning(create):
    def version(number):
        namespace = {"__name__": "some.module"}
        exec(f"def run(config): return {number}", namespace)
        return namespace["run"]

    create(version(1))
    create(version(1))
    with pytest.warns(UserWarning, match=r"source of some\.module:run has changed"):
        create(version(2))


def test_attach(server, create, campaign, fake_worker):
    first = create(num_workers=3)
    fake_worker(campaign)
    first.submit(configs(2))
    first.gather("ALL")
    first.submit(configs(1, start=2), delay=0.2)
    before = first._session.queue.meta()
    with Evaluator.attach(campaign, home=server) as attached:
        attached._workers = None
        assert attached._session.queue.meta() == before
        assert (attached.campaign, attached.method, attached.num_workers) == (campaign, "thread", 3)
        assert len(attached.history()) == 2
        assert attached.num_outstanding == 1


def test_attach_to_nothing(server):
    with pytest.raises(CampaignNotFoundError, match="no campaign 'nowhere'"):
        Evaluator.attach("nowhere", home=server)


def test_attach_starts_no_server(tmp_path):
    with pytest.raises(CampaignNotFoundError, match="has no server"):
        Evaluator.attach("nowhere", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_function_that_cannot_travel_starts_no_server(tmp_path):
    for function in ("no function", 3):
        with pytest.raises(FunctionError):
            Evaluator.create(function, method_kwargs={"home": tmp_path / "home"})
    assert not (tmp_path / "home").exists()


# Ending -----------------------------------------------------------------------------------------------------


def test_cancelled_jobs_are_gathered_as_such(create, fake_worker):
    evaluator = create()
    jobs = evaluator.submit(configs(3))
    assert evaluator.cancel(jobs[:1]) == 1
    assert evaluator.cancel(jobs[:1]) == 0
    (job,) = evaluator.gather("BATCH", 1)
    assert (job.id, job.state, job.status, job.result) == (1, "cancelled", 2, FAIL_RETURN_VALUE)
    assert (job.error, job.cause, job.attempts) == (None, None, 0)
    assert evaluator.cancel() == 2
    assert {job.state for job in evaluator.gather("ALL")} == {"cancelled"}


def test_cancel_takes_adopted_ones_too_and_no_others(create):
    first = create(reuse=False)
    first.submit(configs(3))
    second = create(reuse=False)
    second.submit(configs(2))
    third = create()
    first.submit(configs(1))
    assert second.cancel() == 5
    assert len(second.gather("ALL")) == 5
    assert third._session.queue.snapshot().outstanding == 1


def test_leaving_detaches(create, fake_worker):
    with create() as evaluator:
        evaluator.submit(configs(1))
    evaluator.close()
    submit, gather = (lambda: evaluator.submit([])), (lambda: evaluator.gather("ALL"))
    for use in (submit, gather, evaluator.history, evaluator.cancel):
        with pytest.raises(UsageError, match="closed"):
            use()
    assert evaluator.jobs_done == []
    assert len(evaluator.to_dataframe()) == 1
    assert create().num_outstanding == 1


def test_close_can_cancel(create):
    evaluator = create()
    evaluator.submit(configs(2))
    evaluator.close(cancel=True)
    assert create().num_outstanding == 0


def test_closing_wakes_who_waits(create):
    evaluator = create()
    evaluator.submit(configs(1))
    errors = []

    def gather():
        try:
            evaluator.gather("ALL")
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=gather)
    thread.start()
    wait_until(lambda: evaluator._waiter._reader is not None)
    evaluator.close()
    thread.join(5)
    assert "closed while" in str(errors[0])


def test_a_purged_campaign_ends_the_wait(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(1))
    threading.Timer(0.1, create()._session.queue.purge).start()
    with pytest.raises(CampaignNotFoundError, match="purged"):
        evaluator.gather("ALL", timeout=20)


@pytest.mark.long
def test_a_campaign_that_nobody_serves_is_told_of(create, monkeypatch):
    monkeypatch.setattr("queue_eval.driver.chores.UNSERVED_S", 0.2)
    monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.1)
    evaluator = create(queue="of-nobody")  # not of a worker that an earlier test has killed just now
    evaluator.submit(configs(1))
    start = "start a worker with: queue-eval worker --home .* --campaign"
    with pytest.warns(UserWarning, match=start) as caught:
        evaluator.gather("ALL", timeout=2.5)
    assert len(caught) == 1


# Options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    {"max_attempts": 0}, {"max_losses": 1.5}, {"time_limit": 0}, {"time_limit": -1}, {"retry_delay": "1"},
    {"retry_delay": (1, 2)}, {"on_failure": "ignore"}, {"reuse": 1}, {"local_workers": "yes"}, {"url": 3},
    {"campaign": "a b"}, {"campaign": ""}, {"num_workers": 0}, {"num_workers": True}, {"on_change": "x"},
    {"run_function_kwargs": [1]}, {"run_function_kwargs": {"f": print}}, {"home": 3}, {"url": "http://x"},
    {"retry_delay": (1, 0, 5)}, {"retry_delay": (1, None, 60)}, {"retry_delay": (1, [2], 60)},
    {"retry_delay": (1, 10**400, 60)}, {"retry_delay": (None, 2, 60)}, {"retry_delay": 10**400},
])  # fmt: skip
def test_impossible_options(create, words):
    with pytest.raises(UsageError):
        create(**words)


def test_unknown_options_are_all_named(create):
    with pytest.raises(UsageError, match=r"unknown options 'colour', 'size'; the options are num_workers"):
        create(size=1, colour=2)


def test_options_reach_the_server(create, campaign):
    evaluator = create(
        max_attempts=2, max_losses=4, retry_delay=(1, 3, 9), time_limit=5, run_function_kwargs={"a": 1}
    )
    meta = evaluator._session.queue.meta()
    assert [meta[name] for name in ("max_attempts", "max_losses", "num_workers")] == [b"2", b"4", b"1"]
    assert [float(meta[f"retry_{name}"]) for name in ("first_ms", "factor", "max_ms")] == [1000, 3, 9000]
    assert b'"kwargs":{"a":1},"time_limit":5' in meta["options"]


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(ServerUnreachableError, match="no server answers at unix://"):
        ThreadPoolEvaluator(NAME, url=f"unix://{tmp_path}/none.sock")


@pytest.mark.parametrize("kind", [RayEvaluator, RQEvaluator])
def test_an_unknown_option_of_a_method_that_forwards(kind, tmp_path):
    assert issubclass(kind, Base)
    with pytest.raises(UsageError, match="unknown option 'x'"):
        Evaluator.create(NAME, kind.method, {"x": 1, "home": tmp_path / "home"})
    assert not (tmp_path / "home").exists()
