"""What one slot may use, and how much a run function may give: bounded, with an error that says so."""

from __future__ import annotations

import pickle
import re

import pytest

from queue_eval.model import codec
from queue_eval.model.sizes import parse_size
from queue_eval.model.states import Method
from queue_eval.runtime.execution import RunFunction
from queue_eval.runtime.pipe import ERROR_BYTES, Setup
from tests.support.executor_harness import ROOT, Harness, is_running, result_of, text_of
from tests.support.marks import soak

MB = 10**6
LIMIT = 150 * MB
METHODS = [Method.THREAD, Method.PROCESS, Method.SUBPROCESS]


@pytest.fixture
def make():
    """Makes executors: ``make(method, **plan)``."""
    made = []

    def start(method, **keywords):
        made.append(Harness(method, "do", **keywords))
        return made[-1]

    yield start
    for harness in made:
        harness.close()


# Memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_leak_is_stopped(make, method):
    executor = make(method, slots=1, memory_limit=LIMIT)
    leak, good = executor.run({"do": "leak"}, {})
    assert leak.outcome == "error"  # it would only do it again
    used = r"(\d+ MB|\d+(\.\d+)? GB)"
    assert re.fullmatch(f"used more than its memory limit of 150 MB: {used}", text_of(leak).rstrip())
    assert result_of(good) == 2
    assert b"leaking" in leak.output or method is Method.THREAD


def test_what_a_run_function_starts_counts(make):
    executor = make(Method.PROCESS, slots=1, memory_limit=LIMIT)
    (leak,) = executor.run({"do": "leak_in_a_child"})
    assert "memory limit" in text_of(leak)


@pytest.mark.long
def test_a_fork_that_shares_memory_does_not_count_twice(make):
    executor = make(Method.PROCESS, slots=1, memory_limit=LIMIT)
    # 100 MB, and a fork that shares them: 200 MB of RSS.
    assert executor.run({"do": "share"})[0].outcome == "ok"


def test_threads_share_what_their_slots_may_use(make, tmp_path):
    """Nobody knows which of them it was: the others are lost, and run again."""
    executor = make(Method.THREAD, slots=2, memory_limit=LIMIT // 2)
    gate = tmp_path / "gate"
    waiting = {"do": "wait_for", "gate": str(gate), "started": str(tmp_path / "started")}
    for one in executor.run({"do": "leak"}, waiting):
        assert one.outcome == "lost"
        assert re.search(r"limit of 150 MB: .* with 1 other jobs in the same process", text_of(one))
    assert result_of(executor.call()) == 3


@pytest.mark.long
def test_what_an_attempt_leaves_is_not_charged_to_the_next(make, tmp_path):
    executor = make(Method.PROCESS, slots=1, memory_limit=LIMIT)
    gate = tmp_path / "gate"
    tokens = executor.submit({"do": "keep", "bytes": 80 * MB, "gate": str(gate)})
    # Measuring takes one part in twenty of the time: on a slow machine it comes late.
    executor.until(lambda: [child.attempts_allowed for child in executor.executor._children] == [0])
    gate.touch()
    (kept,) = executor.wait(tokens)
    (pid,) = [result_of(one) for one in executor.run({"do": "pid"})]
    assert result_of(kept) != pid
    executor.until(lambda: not is_running(result_of(kept)))


def test_without_a_limit_nothing_is_measured(make):
    executor = make(Method.PROCESS, slots=1)
    assert executor.run({"do": "keep", "bytes": 200 * MB})[0].outcome == "ok"
    assert executor.executor._memory_limit._gauge is None


@pytest.mark.long
def test_the_limits_of_a_worker(fleet, campaign):
    """By its options: a leak fails its job, and processes are replaced, at no cost to the others."""
    fleet.worker("--memory-limit", "150MB", "--max-jobs-per-child", "2", slots=2)
    function = "tests.support.executor_functions:do"
    with fleet.driver(campaign, function, max_losses=1) as driver:
        (leak,) = driver.submit([{"do": "leak"}])
        others = driver.submit([{"do": "pid"}] * 12)
        driver.gather("ALL", timeout=60)
    assert (leak.state, leak.cause, leak.attempts) == ("failed", "error", 1)
    assert "used more than its memory limit of 150 MB" in leak.error
    assert {(job.state, job.attempts) for job in others} == {("succeeded", 1)}
    pids = [job.result for job in others]
    assert max(pids.count(pid) for pid in pids) <= 2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500 * MB), ("2GB", 2 * 10**9), ("2G", 2 * 10**9), ("1GiB", 2**30), ("1.5 gib", 3 * 2**29),
        ("64kb", 64_000),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "G", "GB", "-1GB", "1e9", "2GB!", "two GB"])
def test_what_is_no_size(text):
    assert parse_size(text) is None


# Children are replaced ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_child_runs_so_many_attempts(make, method):
    executor = make(method, slots=2, jobs_per_child=3)
    ended = executor.run(*[{"do": "pid"}] * 10)
    pids = [result_of(one) for one in ended]  # none of them failed or was lost
    assert max(pids.count(pid) for pid in pids) <= (1 if method is Method.SUBPROCESS else 3)
    assert len(set(pids)) >= 4
    executor.until(lambda: sum(map(is_running, set(pids))) <= 2)


def test_a_long_attempt_keeps_no_slot_of_its_child_waiting(make, tmp_path):
    """A child of threads is replaced while its longest attempt still runs in it."""
    executor = make(Method.THREAD, slots=2, jobs_per_child=2)
    gate = tmp_path / "gate"
    (long,) = executor.submit({"do": "wait_for", "gate": str(gate), "started": str(tmp_path / "started")})
    others = executor.run(*[{"do": "pid"}] * 6)
    assert long not in executor.ended
    assert len({result_of(one) for one in others}) >= 3
    gate.touch()
    assert result_of(executor.wait([long])[0]) == 1


def test_never_more_at_once_than_there_are_slots(make):
    executor = make(Method.PROCESS, slots=2, jobs_per_child=1)
    tokens = executor.submit(*[{"do": "nap", "for_s": 0.1}] * 8)
    most = 0
    while not all(token in executor.ended for token in tokens):
        executor.turn()
        most = max(most, len(executor.executor.begun()))
    assert most == 2


# What a run function gives --------------------------------------------------------------------------------


def run(make_result, tmp_path):
    """What becomes of the result of a function, without a process around it."""
    function = RunFunction(Setup("x:y", pickle.dumps(None), (str(ROOT),), {}, threads=1))
    function._broken, function._function = "", make_result
    return function(1, b"{}")


def cyclic(config):
    values = []
    values.append(values)
    return values


def deep(config):
    value = 1
    for _ in range(100_000):
        value = [value]
    return value


class Hostile:
    def __repr__(self):
        raise SystemExit


@pytest.mark.parametrize(
    ("make_result", "words"),
    [
        (cyclic, "nested deeper than 200 levels"),
        (deep, "nested deeper than 200 levels"),
        (lambda _: {float("nan"): 1}, "has the key nan, a float"),
        (lambda _: {"a": [b"x"]}, "result.a[0] is a bytes"),
        (lambda _: 10**5000, "an integer of more digits than Python reads back"),
        (lambda _: {"n": [-(10**5000)]}, "an integer of more digits"),
        (lambda _: Hostile(), "SystemExit"),
    ],
)
def test_a_result_that_cannot_travel_is_that_jobs_failure(make_result, words, tmp_path):
    outcome, body = run(make_result, tmp_path)
    assert outcome == "error"
    assert words in body.decode()
    assert len(body) < ERROR_BYTES + 100


def test_a_result_that_is_too_large_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(codec, "MAX_RESULT_BYTES", 1000)
    outcome, body = run(lambda _: "x" * 2000, tmp_path)
    assert outcome == "error"
    assert b"it takes 2,002 bytes as JSON, more than 1,000; write large data to a file" in body


@pytest.mark.long
@pytest.mark.parametrize("method", ["process", *soak("thread")])
def test_the_largest_result_arrives_and_larger_ones_are_refused(fleet, campaign, method):
    most = codec.MAX_RESULT_BYTES - len('""')
    with fleet.driver(campaign, lambda config: "x" * config["size"], method) as driver:
        fleet.worker("--campaign", campaign)
        driver.submit([{"size": most + 1}, {"size": 100 * MB}, {"size": most}, {"size": 1}])
        jobs = {job.config["size"]: job for job in driver.gather("ALL", timeout=60)}
    assert jobs[most].result == "x" * most
    assert jobs[1].result == "x"
    refusal = r"ResultError: .* it takes [\d,]+ bytes as JSON, .* return its path"
    refusal += r'\. The result was "x{5999}.*x{5999}"'
    for job in (jobs[most + 1], jobs[100 * MB]):
        assert (job.state, job.cause) == ("failed", "error")
        assert re.fullmatch(refusal, job.error)


def raise_(error):
    raise error


class HostileError(Exception):
    def __str__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "function",
    [
        lambda _: raise_(ValueError("x" * 100 * MB)),
        lambda _: raise_(HostileError()),
        lambda _: raise_(ExceptionGroup("many", [ValueError("y" * 1000)] * 1000)),
        lambda _: raise_(RecursionError),
        lambda _: raise_(MemoryError),
        lambda _: raise_(UnicodeDecodeError("utf-8", b"\xff" * MB, 0, 1, "\ud800")),
        lambda c, f=lambda g, c: g(g, c): f(f, c),
    ],
)
def test_an_error_is_bounded_whatever_it_is(function, tmp_path):
    outcome, body = run(function, tmp_path)
    assert outcome == "error"
    assert 0 < len(body) < ERROR_BYTES + 100


@pytest.mark.parametrize("method", METHODS)
def test_output_without_end_is_bounded(make, method):
    executor = make(method, slots=1)
    (one,) = executor.run({"do": "print_much"})
    assert one.outcome == "ok"
    assert len(one.output) < 70_000
    assert b"bytes left out" in one.output
    assert one.output.startswith(b"first line")
