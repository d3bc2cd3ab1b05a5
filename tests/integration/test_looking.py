"""Looking from Python: what is outstanding, how far it is, what each attempt did; and leaving no trace."""

from __future__ import annotations

import asyncio
import pickle
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from queue_eval import Evaluator, Execution, ServerUnreachableError, ThreadPoolEvaluator, UsageError
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import live_workers
from queue_eval.model.job import Job
from queue_eval.model.moves import Release, Settlement
from queue_eval.model.states import Outcome, State
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.waiting import wait_until

NAME = "tests.support.functions:run"


@pytest.fixture
def create(server, campaign):
    """Evaluators on the session's server, without workers of their own."""
    made = []

    def create(**keywords):
        keywords = {"campaign": campaign, "home": server, "local_workers": False} | keywords
        made.append(ThreadPoolEvaluator(NAME, **keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


class Hand:
    """A worker whose every step the test takes."""

    def __init__(self, home, campaign, name="box-hand"):
        self.link = Link(find_access(None, home), name="test")
        self.queue = CampaignCommands.attach(self.link, campaign)[0]
        self.name = name

    def lease(self, room=1, prefetch=0, settlements=()):
        now_ms = int(self.link.call(lambda client: client.time())[0] * 1000)
        return self.queue.settle(
            self.name, settlements, lease_ms=60_000, request=f"{secrets.token_hex(3)}-{now_ms}", room=room,
            prefetch=prefetch, now=time.monotonic(),
        ).leases  # fmt: skip

    def settle(self, lease, outcome=Outcome.OK, body=b"1", output=b""):
        ended = Settlement(lease.id, lease.attempt, outcome, 2.0, time.monotonic(), "abc", body, output)
        self.queue.settle(
            self.name, [ended], lease_ms=0, request="none", room=0, prefetch=0, now=time.monotonic()
        )

    def close(self):
        self.link.close()


@pytest.fixture
def hand(server):
    hands = []

    def hand(campaign, **more):
        hands.append(Hand(server, campaign, **more))
        return hands[-1]

    yield hand
    for one in hands:
        one.close()


def configs(n, start=0):
    return [{"x": x} for x in range(start, start + n)]


def ids(jobs):
    return [job.id for job in jobs]


def states(jobs):
    return [job.state.value for job in jobs]


# Outstanding ------------------------------------------------------------------------------------------------


def test_submitted_jobs_are_the_same_objects(create, hand):
    evaluator = create()
    assert evaluator.outstanding() == []
    jobs = evaluator.submit(configs(2)) + evaluator.submit(configs(1, 2), delay=3600)
    (lease,) = hand(evaluator.campaign).lease()
    found = evaluator.outstanding()
    assert all(job is other for job, other in zip(found, jobs, strict=True))
    assert states(found) == ["running", "pending", "scheduled"]
    assert lease.id == 1
    assert (jobs[0].worker, jobs[0].host, jobs[0].attempts) == ("box-hand", "box", 1)
    assert abs(jobs[0].started_at - jobs[0].submitted_at).total_seconds() < 60
    assert (jobs[1].worker, jobs[1].started_at, jobs[1].attempts) == (None, None, 0)
    assert {job.status for job in found} == {Job.RUNNING}


def test_what_is_finished_and_not_gathered_is_outstanding(create, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(2))
    worker = hand(evaluator.campaign)
    (lease,) = worker.lease()
    worker.settle(lease, body=b"7")
    found = evaluator.outstanding()
    assert len(found) == evaluator.num_outstanding == 2
    assert (states(found), found[0].result, found[0].status) == (["succeeded", "pending"], 7, Job.DONE)
    assert evaluator.num_gathered == 0
    assert evaluator.gather("BATCH", 1)[0] is jobs[0]
    assert evaluator.outstanding() == [jobs[1]]


def test_adopted_jobs_become_visible_and_stay_the_same(create, hand):
    before = create()
    before.submit(configs(3), priority=5)
    before.submit(configs(1, 3), delay=3600)
    worker = hand(before.campaign)
    first, _ = worker.lease(room=2)
    before.close()

    evaluator = create()
    assert (evaluator.num_outstanding, evaluator.jobs) == (4, [])
    found = evaluator.outstanding()
    assert ids(found) == [1, 2, 3, 4]
    assert states(found) == ["running", "running", "pending", "scheduled"]
    assert [job.own_config() for job in found] == configs(4)
    assert all(job.submitted_at is not None for job in found)
    assert found[0].run_function == NAME
    assert ids(evaluator.jobs) == [1, 2, 3, 4]
    assert list(evaluator.to_dataframe()["state"]) == states(found)

    worker.settle(first, body=b"7")
    again = evaluator.outstanding()
    assert all(job is other for job, other in zip(again, found, strict=True))
    assert states(again) == ["succeeded", "running", "pending", "scheduled"]
    (gathered,) = evaluator.gather("BATCH", 1)
    assert gathered is found[0]
    assert (gathered.result, gathered.worker) == (7, "box-hand")
    assert evaluator.num_outstanding == len(evaluator.outstanding()) == 3
    assert evaluator.cancel() == 3
    assert {id(job) for job in evaluator.gather("ALL")} == {id(job) for job in found[1:]}
    assert (evaluator.outstanding(), evaluator.num_outstanding) == ([], 0)


def test_a_submission_that_joins_a_shown_job_returns_it(create, hand):
    create().submit(configs(2))
    evaluator = create()
    shown = evaluator.outstanding()
    joined, new = evaluator.submit([{"x": 1}, {"x": 9}])
    assert joined is shown[1]
    assert new.id == 3
    worker = hand(evaluator.campaign)
    for lease in worker.lease(room=3):
        worker.settle(lease)
    assert evaluator.num_outstanding == 3
    assert {id(job) for job in evaluator.gather("ALL")} == {id(shown[0]), id(joined), id(new)}
    assert evaluator.gather("ALL", timeout=0) == []


def test_other_drivers_jobs_are_not_shown(create):
    first, second = create(), create()
    first.submit(configs(2))
    (mine,) = second.submit(configs(1, 2))
    assert second.outstanding() == [mine]
    assert ids(first.outstanding()) == [1, 2]


def test_a_job_that_was_finished_at_the_opening_and_is_retried_is_not_adopted(create, hand):
    before = create()
    before.submit(configs(2))
    worker = hand(before.campaign)
    (lease,) = worker.lease()
    worker.settle(lease, Outcome.ERROR, b"boom")
    evaluator = create()
    assert worker.queue.retry([1]) == [1]
    assert ids(evaluator.outstanding()) == [2]


def test_many_adopted_jobs(create, fake_worker):
    create().submit(configs(2500))
    evaluator = create()
    found = evaluator.outstanding()
    assert ids(found) == list(range(1, 2501))
    fake_worker(evaluator.campaign)
    assert {id(job) for job in evaluator.gather("ALL")} == {id(job) for job in found}


def test_without_kept_jobs(create, hand):
    create().submit(configs(3))
    evaluator = create(keep_jobs=False)
    worker = hand(evaluator.campaign)
    (lease,) = worker.lease()
    worker.settle(lease, body=b"5")
    shown = evaluator.outstanding()
    assert (ids(shown), states(shown)) == ([1, 2, 3], ["succeeded", "pending", "pending"])
    assert evaluator.gather("BATCH", 1) == shown[:1]
    assert evaluator.outstanding() == shown[1:]
    assert [(job.id, job.result) for job in evaluator.best()] == [(1, 5)]


def test_while_another_thread_gathers(create, fake_worker):
    create().submit(configs(300))
    evaluator = create()
    gathered = []
    thread = threading.Thread(target=lambda: gathered.extend(evaluator.gather("ALL")))
    thread.start()
    fake_worker(evaluator.campaign, room=20)
    shown = {}
    while thread.is_alive():
        for job in evaluator.outstanding():
            assert shown.setdefault(job.id, job) is job
    thread.join()
    assert sorted(ids(gathered)) == list(range(1, 301))
    assert all(shown.get(job.id, job) is job for job in gathered)
    assert all(job.status == Job.DONE for job in shown.values())


SEARCH = """
    import sys
    from queue_eval import Evaluator

    evaluator = Evaluator.create("tests.support.functions:run", "thread", {options})
    evaluator.submit([{{"x": x}} for x in range(3)], tags=[f"t{{x}}" for x in range(3)])
    print("submitted", flush=True)
    evaluator.gather("ALL")
"""


def test_after_the_death_of_a_driver(server, campaign, create, fake_worker):
    options = {"campaign": campaign, "home": str(server), "local_workers": False}
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SEARCH.format(options=options))], stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with driver:
        assert driver.stdout.readline() == "submitted\n"
        driver.send_signal(signal.SIGKILL)
    with Evaluator.attach(campaign, home=server, read_only=True) as looker:
        assert [(job.id, job.tag, job.state) for job in looker.outstanding()] == [
            (1, "t0", "pending"), (2, "t1", "pending"), (3, "t2", "pending"),
        ]  # fmt: skip
    evaluator = create()
    found = evaluator.outstanding()
    assert [(job.id, job.tag) for job in found] == [(1, "t0"), (2, "t1"), (3, "t2")]
    fake_worker(campaign)
    assert {id(job) for job in evaluator.gather("ALL")} == {id(job) for job in found}


# Refresh ----------------------------------------------------------------------------------------------------


def test_refresh_gives_outcomes_without_gathering(create, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(3))
    worker = hand(evaluator.campaign)
    first, _ = worker.lease(room=2)
    worker.settle(first, body=b"7")
    assert evaluator.refresh(jobs) is None
    assert states(jobs) == ["succeeded", "running", "pending"]
    assert (jobs[0].result, evaluator.num_gathered, evaluator.num_outstanding) == (7, 0, 3)
    assert evaluator.gather("BATCH", 1) == [jobs[0]]
    evaluator.refresh(jobs)
    assert evaluator.gather("BATCH", 0, timeout=0) == []


def test_refresh_of_jobs_that_no_gather_returns(create, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(2))
    copies = pickle.loads(pickle.dumps(jobs))
    created = evaluator.create_job({"x": 1})
    worker = hand(evaluator.campaign)
    (lease,) = worker.lease()
    worker.settle(lease, Outcome.ERROR, b"boom")
    other = create()
    other.refresh([*copies, created])
    assert (copies[0].state, copies[0].error) == ("failed", "boom")
    assert copies[0].result == evaluator.FAIL_RETURN_VALUE
    assert (copies[1].state, created.status) == ("pending", Job.READY)
    evaluator.refresh(copies)
    assert evaluator.gather("BATCH", 1) == [jobs[0]]
    unknown = Job(99, {"x": 1}, None)
    unknown.status = Job.RUNNING
    evaluator.refresh([unknown])
    assert unknown.state == "pending"


def test_refresh_of_a_job_that_waits_on_a_worker_or_for_a_retry(create, hand):
    evaluator = create(max_attempts=2, retry_delay=3600)
    jobs = evaluator.submit(configs(2))
    worker = hand(evaluator.campaign)
    first, second = worker.lease(room=1, prefetch=1)
    evaluator.refresh(jobs)
    assert [(job.state.value, job.attempts, job.started_at is None) for job in jobs] == [
        ("running", 1, False), ("running", 0, True),
    ]  # fmt: skip
    worker.settle(first, Outcome.ERROR, b"boom")
    worker.queue.release(worker.name, [Release(second.id, second.attempt, "drain")])
    evaluator.refresh(jobs)
    assert [(job.state.value, job.attempts, job.releases, job.worker) for job in jobs] == [
        ("scheduled", 1, 0, None), ("pending", 0, 1, None),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [Job(1, {"x": 1}, None), 3, "job", [1], [None]])
def test_what_is_no_list_of_jobs(create, bad):
    with pytest.raises(UsageError, match="give a list of jobs"):
        create().refresh(bad)


def test_a_closed_evaluator(create):
    evaluator = create()
    jobs = evaluator.submit(configs(1))
    evaluator.close()
    for look in (evaluator.outstanding, lambda: evaluator.refresh(jobs)):
        with pytest.raises(UsageError, match="the evaluator is closed"):
            look()
    assert evaluator.best() == []


# Output and executions --------------------------------------------------------------------------------------


def test_output_and_executions(server, create, hand):
    evaluator = create(max_attempts=2, retry_delay=0)
    (job,) = evaluator.submit(configs(1))
    worker = hand(evaluator.campaign)
    (lease,) = worker.lease()
    worker.queue.release(worker.name, [Release(lease.id, lease.attempt, "the worker drains")])
    (lease,) = worker.lease()
    worker.settle(lease, Outcome.ERROR, b"boom", b"first words")
    (lease,) = wait_until(worker.lease)
    assert [(one.number, one.outcome, one.finished_at) for one in job.executions][-1] == (3, "running", None)
    worker.settle(lease, body=b"1", output=b"last words")
    evaluator.gather("ALL")
    assert job.output == "last words"
    shape = [(e.number, e.worker, e.host, e.outcome, e.cause, e.error, e.output) for e in job.executions]
    who = ("box-hand", "box")
    assert shape == [
        (1, *who, "released", None, "the worker drains", None),
        (2, *who, "failed", "error", "boom", "first words"),
        (3, *who, "succeeded", None, None, "last words"),
    ]
    assert all(isinstance(one, Execution) for one in job.executions)
    last = job.executions[-1]
    assert (last.started_at, last.finished_at) == (job.started_at, job.finished_at)
    assert job.executions[0].finished_at <= job.executions[1].finished_at <= last.finished_at
    assert all(one.started_at <= one.finished_at for one in job.executions)
    assert job.executions[1].run_s == pytest.approx(0.002)

    attached = Evaluator.attach(evaluator.campaign, home=server, read_only=True)
    with attached:
        (other,) = attached.history()
        assert other.output == "last words"
    assert other.executions == job.executions, "read after closing"


@pytest.mark.parametrize(
    ("outcome", "shape"),
    [
        (Outcome.ERROR, (1, "failed", "error", "boom", "words")),
        (Outcome.LOST, (1, "failed", "lost", "boom", "words")),
        (Outcome.NAN, (1, "failed", "nan", "boom", "words")),
    ],
)
def test_the_execution_that_failed_a_job(create, hand, outcome, shape):
    evaluator = create(max_losses=1)
    evaluator.submit(configs(1))
    worker = hand(evaluator.campaign)
    worker.settle(worker.lease()[0], outcome, b"boom", b"words")
    (job,) = evaluator.gather("ALL")
    (one,) = job.executions
    assert (one.number, one.outcome, one.cause, one.error, one.output) == shape
    assert (job.output, one.started_at, one.finished_at) == ("words", job.started_at, job.finished_at)


def test_executions_of_cancelled_and_waiting_jobs(create, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(2))
    worker = hand(evaluator.campaign)
    worker.lease()
    assert evaluator.cancel() == 2
    evaluator.gather("ALL")
    (one,) = jobs[0].executions
    assert (one.number, one.worker, one.outcome) == (1, "box-hand", "cancelled")
    assert (one.error, one.output) == (None, None)
    assert (jobs[1].executions, jobs[1].output) == ([], None)


def test_readings_without_a_server(own_home, campaign):
    start_server(own_home)
    with ThreadPoolEvaluator(NAME, campaign=campaign, home=own_home, local_workers=False) as evaluator:
        (job,) = evaluator.submit(configs(1))
        evaluator.cancel()
        evaluator.gather("ALL")
    stop_server(own_home)
    with pytest.raises(ServerUnreachableError, match="start it"):
        _ = job.output
    start_server(own_home)
    assert (job.output, job.executions) == (None, [])


def test_the_number_of_an_execution_is_that_of_its_lease(create, hand):
    evaluator = create()
    evaluator.submit(configs(2))
    worker = hand(evaluator.campaign)
    for _ in range(3):  # given back without a word, so on no record
        leases = worker.lease(room=1, prefetch=1)
        worker.queue.release(worker.name, [Release(lease.id, lease.attempt) for lease in leases])
    leases = worker.lease(room=2)
    assert {lease.attempt for lease in leases} == {4}
    worker.settle(leases[0])
    worker.settle(leases[1], Outcome.ERROR, b"boom")
    jobs = evaluator.gather("ALL")
    assert [(job.attempts, [one.number for one in job.executions]) for job in jobs] == [(1, [4])] * 2


def test_the_execution_of_a_dead_worker(create, hand):
    evaluator = create(max_losses=2)
    (job,) = evaluator.submit(configs(1))
    worker = hand(evaluator.campaign)
    worker.lease()
    worker.queue.reclaim(grace_ms=0, worker=worker.name)
    (one,) = job.executions
    assert (one.number, one.outcome, one.cause, one.worker) == (1, "failed", "lost", "box-hand")
    assert "died or was cut off" in one.error
    assert one.started_at <= one.finished_at


# Cancelling what waits --------------------------------------------------------------------------------------


def test_cancel_only_what_waits(create, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(3)) + evaluator.submit(configs(1, 3), delay=3600)
    hand(evaluator.campaign).lease(room=1, prefetch=1)
    assert evaluator.cancel([jobs[0], jobs[2]], running=False) == 1
    assert evaluator.cancel(running=False) == 1
    assert evaluator.cancel(running=False) == 0
    assert states(evaluator.outstanding()) == ["running", "running", "cancelled", "cancelled"]
    assert evaluator.cancel() == 2


def test_cancel_only_adopted_jobs_that_wait(create, hand):
    create().submit(configs(3))
    evaluator = create()
    hand(evaluator.campaign).lease()
    assert evaluator.cancel(running=False) == 2
    assert states(evaluator.outstanding()) == ["running", "cancelled", "cancelled"]


# Tags -------------------------------------------------------------------------------------------------------

TAGS = [{"trial": 3, "parents": [1, 2]}, None, "text", 0]


def test_tags_are_kept_with_the_job(server, create, fake_worker, hand):
    evaluator = create()
    jobs = evaluator.submit(configs(4), tags=TAGS)
    assert [job.tag for job in jobs] == TAGS
    assert [job.own_config() for job in jobs] == configs(4)
    jobs[0].tag["trial"] = "changed here only"
    with Evaluator.attach(evaluator.campaign, home=server, read_only=True) as looker:
        assert [job.tag for job in looker.outstanding()] == TAGS
    adopting = create()
    fake_worker(evaluator.campaign)
    gathered = sorted(adopting.gather("ALL"), key=lambda job: job.id)
    assert [job.tag for job in gathered] == TAGS
    later = create()
    assert [job.tag for job in sorted(later.history(), key=lambda job: job.id)] == TAGS
    assert sorted(map(str, later.to_dataframe()["tag"])) == sorted(map(str, TAGS))


def test_a_tag_is_no_part_of_reuse(create, hand):
    evaluator = create()
    evaluator.submit(configs(2), tags=["a", "b"])
    again = create()
    joined = again.submit(configs(3))
    assert [(job.id, job.tag) for job in joined] == [(1, "a"), (2, "b"), (3, None)]
    third = create()
    retagged = third.submit(configs(3), tags=[None, "c", "d"])
    assert [(job.id, job.tag) for job in retagged] == [(1, "a"), (2, "c"), (3, "d")]
    worker = hand(evaluator.campaign)
    for lease in worker.lease(room=3):
        worker.settle(lease)
    found = create().history()
    assert [(job.id, job.tag) for job in found] == [(1, "a"), (2, "c"), (3, "d")]
    finished = create().submit(configs(3))
    assert [job.tag for job in finished] == ["a", "c", "d"]


def test_a_shown_job_that_is_joined_takes_the_new_tag(create):
    create().submit(configs(1), tags=["a"])
    evaluator = create()
    (shown,) = evaluator.outstanding()
    assert evaluator.submit(configs(1), tags=["b"]) == [shown]
    assert shown.tag == "b"


def test_an_awaited_job_takes_its_tag_along(create, fake_worker):
    evaluator = create()
    job = evaluator.create_job({"x": 1})
    job.tag = [1]
    fake_worker(evaluator.campaign)
    asyncio.run(evaluator.execute(job))
    assert [(one.id, one.tag) for one in create().history()] == [(job.id, [1])]


def test_a_retried_job_keeps_its_tag(create, hand):
    evaluator = create()
    evaluator.submit(configs(1), tags=["a"])
    worker = hand(evaluator.campaign)
    worker.settle(worker.lease()[0], Outcome.ERROR, b"boom")
    assert worker.queue.retry([1]) == [1]
    assert [job.tag for job in create().outstanding()] == ["a"]


def test_tables_have_a_column_of_tags_only_where_a_job_has_one(create, fake_worker, tmp_path):
    evaluator = create()
    evaluator.submit([{"x": 1, "tag": "mine"}])
    fake_worker(evaluator.campaign)
    evaluator.gather("ALL")
    assert list(evaluator.to_dataframe()["tag"]) == ["mine"]
    evaluator.submit([{"x": 2, "tag": "mine"}], tags=["ours"])
    evaluator.gather("ALL")
    frame = evaluator.to_dataframe()
    assert [column for column in frame.columns if "tag" in column] == ["config.tag", "tag"]
    assert list(frame["tag"]) == [None, "ours"]
    evaluator.dump_evals(log_dir=tmp_path)
    assert "ours" not in (tmp_path / "results.csv").read_text()


@pytest.mark.parametrize("damage", ["a value", "the type"])
def test_damaged_tags_are_none(server, create, hand, damage):
    evaluator = create()
    evaluator.submit(configs(2), tags=["a", "b"])
    worker = hand(evaluator.campaign)
    worker.settle(worker.lease()[0])
    column = worker.queue.keys.column("tags")
    if damage == "a value":
        worker.link.call(lambda client: client.hset(column, "1", "{"))
        worker.link.call(lambda client: client.hset(column, "2", "{"))
    else:
        worker.link.call(lambda client: client.delete(column))
        worker.link.call(lambda client: client.set(column, "x"))
    other = create()
    found = other.history() + other.outstanding()
    assert [(job.id, job.tag) for job in found] == [(1, None), (2, None)]
    assert [job.tag for job in other.submit(configs(3), tags=["c", None, "d"])] == ["c", None, "d"]
    assert [job.tag for job in create().outstanding()] == [None, "d"]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["a"], "tags holds 1 for 2 configs"),
        ([], "tags holds 0 for 2 configs"),
        ("ab", "tags is of type str"),
        ({"a": 1, "b": 2}, "tags is of type dict"),
        (3, "tags is of type int"),
        (["a", object()], r"tags\[1\] is an object"),
        (["a", {"b": float("nan")}], r"tags\[1\].b is nan"),
        ([10**5000, None], r"tags\[0\] holds an integer"),
    ],
)
def test_bad_tags(create, tags, message):
    evaluator = create()
    with pytest.raises(UsageError, match=message):
        evaluator.submit(configs(2), tags=tags)
    assert evaluator.num_submitted == 0


# Best -------------------------------------------------------------------------------------------------------


def test_best_of_gathered_jobs_and_of_the_history(create, fake_worker):
    evaluator = create()
    evaluator.submit(configs(5))
    fake_worker(evaluator.campaign)
    assert evaluator.best() == []
    evaluator.gather("ALL")
    assert [job.result for job in evaluator.best(2)] == [40, 30]
    assert [job.result for job in evaluator.best(1, "min")] == [0]
    other = create()
    assert other.best() == []
    other.history()
    assert [job.config["x"] for job in other.best(1, key=lambda job: -abs(job.config["x"] - 2))] == [2]


# The URL ----------------------------------------------------------------------------------------------------


def test_the_url_works_and_its_repr_hides_the_password(server, create, tmp_path, monkeypatch):
    evaluator = create()
    assert evaluator.url == find_access(None, server).url
    password = find_access(None, server).url.partition("@")[0].rpartition(":")[2]
    assert password
    assert password in f"{evaluator.url}"
    assert password not in repr(evaluator.url)
    monkeypatch.chdir(tmp_path)
    elsewhere = {"url": evaluator.url, "home": tmp_path / "h"}
    with Evaluator.attach(evaluator.campaign, **elsewhere, read_only=True) as other:
        assert other.url == evaluator.url


# Read-only --------------------------------------------------------------------------------------------------


def dump_of(link):
    """All keys of the server but for its workers' heartbeats, as DUMP gives them, with their expiry."""

    def read(client):
        found = {}
        for key in client.scan_iter(count=1000):
            found[key] = (client.dump(key), client.pexpiretime(key))
        return found

    return link.call(read)


def test_a_read_only_evaluator_changes_nothing(own_home, campaign, hand):
    start_server(own_home, keep=True)
    with ThreadPoolEvaluator(NAME, 2, campaign=campaign, home=own_home, local_workers=False) as evaluator:
        evaluator.submit(configs(6))
        evaluator.submit(configs(1, 6), delay=3600)
        worker = Hand(own_home, campaign)
        leases = worker.lease(room=4)
        for lease, outcome in zip(leases, (Outcome.OK, Outcome.ERROR, Outcome.LOST), strict=False):
            worker.settle(lease, outcome, b"3" if outcome is Outcome.OK else b"boom", b"words")
        # A dead worker, whose leases a driver would take back.
        worker.link.call(lambda client: client.zadd(worker.queue.keys.column("workers"), {"box-hand": 1}))
        worker.link.call(lambda client: client.hset(worker.queue.keys.meta, "expires", "1"))
    before = dump_of(worker.link)
    with Evaluator.attach(campaign, home=own_home, read_only=True) as looker:
        assert looker._workers is None
        assert (looker.num_outstanding, looker.jobs, looker.num_workers) == (0, [], 2)
        history = looker.history()
        assert states(history) == ["succeeded", "failed"]
        found = looker.outstanding()
        assert ids(found) == [3, 4, 5, 6, 7]
        looker.refresh(found)
        assert [len(job.executions) for job in history + found] == [1, 1, 1, 1, 0, 0, 0]
        assert [job.output for job in history] == ["words", "words"]
        assert (looker.reports(found[0]), history[0].reports, found[0].reports) == ([], [], [])
        assert ids(looker.best()) == [1]
        assert len(looker.to_dataframe()) == 7
        for refused in (
            lambda: looker.submit(configs(1)), lambda: looker.gather("ALL"), looker.cancel,
            looker.stop, lambda: looker.stop(found),
            lambda: next(looker.as_completed()), lambda: looker.cancel(found, running=False),
        ):  # fmt: skip
            with pytest.raises(UsageError, match="only looks at campaign"):
                refused()
        assert (looker.num_gathered, looker.num_submitted) == (2, 0)
    assert dump_of(worker.link) == before
    worker.close()


def test_a_read_only_evaluator_executes_nothing(server, create):
    looker = Evaluator.attach(create().campaign, home=server, read_only=True)
    with looker, pytest.raises(UsageError, match="only looks"):
        asyncio.run(looker.execute(looker.create_job({"x": 1})))


def test_a_read_only_evaluator_starts_no_worker_and_follows_the_campaign(server, create, fake_worker, hand):
    evaluator = create(max_attempts=1)
    evaluator.submit(configs(3))
    worker = hand(evaluator.campaign)
    workers = len(live_workers(worker.link))
    with Evaluator.attach(evaluator.campaign, home=server, read_only=True) as looker:
        first = looker.outstanding()
        assert (looker.history(), states(first)) == ([], ["pending"] * 3)
        leases = worker.lease(room=2)
        worker.settle(leases[0], body=b"1")
        worker.settle(leases[1], Outcome.ERROR, b"boom")
        assert looker.outstanding() == first[2:]
        looker.refresh(first)
        assert states(first) == ["succeeded", "failed", "pending"]
        assert looker.history() == first[:2]
        assert worker.queue.retry([2]) == [2]
        again = looker.outstanding()
        assert (ids(again), again[1]) == ([2, 3], first[2])
        assert ids(looker.history()) == ids(looker.jobs_done) == [1]
        fake_worker(evaluator.campaign)
        evaluator.gather("ALL")
        assert looker.outstanding() == []
        assert sorted(ids(looker.history())) == [1, 2, 3]
        assert sorted(states(looker.jobs_done)) == ["succeeded"] * 3
        assert len(live_workers(worker.link)) == workers
    with pytest.raises(UsageError, match="only looks"):
        Evaluator.attach(evaluator.campaign, home=server, read_only=True).close(cancel=True)


def test_a_read_only_evaluator_starts_no_server_that_was_stopped(own_home, campaign):
    start_server(own_home)
    with ThreadPoolEvaluator(NAME, campaign=campaign, home=own_home, local_workers=False):
        pass
    stop_server(own_home)
    with pytest.raises(ServerUnreachableError):
        Evaluator.attach(campaign, home=own_home, read_only=True)


def test_a_job_that_is_finished_counts_once_however_it_is_looked_at(create, fake_worker):
    evaluator = create()
    jobs = evaluator.submit(configs(50))
    fake_worker(evaluator.campaign)

    def looked():
        evaluator.refresh(jobs)
        return all(job.status == Job.DONE for job in evaluator.outstanding())

    wait_until(looked)
    assert (evaluator.num_gathered, {job.state for job in jobs}) == (0, {State.SUCCEEDED})
    assert {id(job) for job in evaluator.gather("ALL")} == {id(job) for job in jobs}
    assert evaluator.gather("ALL") == []
