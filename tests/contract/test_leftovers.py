"""What user code has started ends with its attempt, also in process groups and sessions of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from queue_eval.chaos.processes import send
from queue_eval.model.states import Method
from queue_eval.runtime import leftovers
from queue_eval.runtime.leftovers import CAN_BE_FOUND
from tests.support import leftover_functions
from tests.support.executor_harness import ROOT, is_running, result_of
from tests.support.marks import long, soak
from tests.support.processes import Started
from tests.support.waiting import wait_until
from workers.executors.dispatcher import Dispatcher

pytestmark = pytest.mark.skipif(not CAN_BE_FOUND, reason="what has left its group cannot be found here")

FUNCTIONS = "tests.support.leftover_functions"
seldom = pytest.mark.parametrize(
    "execution", ["process", *long("thread", "subprocess", "ray", "rq"), *soak("rq-simple")], indirect=True
)
KINDS = ["same", "timeout", "monitor", "group", "session", "daemon", "bare"]


@pytest.fixture(autouse=True)
def ours(method):
    if method is Method.RAY:
        pytest.skip("its processes are its own affair")


def pid_in(file: Path) -> int:
    wait_until(file.exists)
    return int(file.read_text())


@pytest.mark.parametrize(
    "kind", ["same", "session", *soak(*(kind for kind in KINDS if kind not in ("same", "session")))]
)
def test_at_the_time_limit(make, tmp_path, kind):
    executor = make(f"{FUNCTIONS}:hang", slots=1, time_limit_s=1.0)
    late, after = executor.run({"kind": kind, "file": str(tmp_path / "pid")}, {})
    assert late.outcome == "timeout"
    assert result_of(after) == 2
    assert not is_running(pid_in(tmp_path / "pid")), "it ran on beside the next job"


@pytest.mark.parametrize("kind", ["same", "timeout", "session"])
def test_when_a_job_is_cancelled(make, method, tmp_path, kind):
    executor = make(f"{FUNCTIONS}:hang", slots=1)
    hung, after = executor.submit({"kind": kind, "file": str(tmp_path / "pid")}, {})
    executor.until((tmp_path / "pid").exists)
    assert executor.executor.forget([hung], begun=True) == [hung]
    assert result_of(executor.wait([after])[0]) == 2
    if method is Method.RQ:  # its workers are told, and end it soon
        executor.until(lambda: not is_running(pid_in(tmp_path / "pid")))
    assert not is_running(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_job_has_ended(make, method, tmp_path, kind):
    executor = make(f"{FUNCTIONS}:leave", slots=1)
    (ended,) = executor.run({"kind": kind, "file": str(tmp_path / "pid")})
    assert result_of(ended) == 1
    stays = kind == "same" and method in (Method.PROCESS, Method.THREAD)  # as the pool of a module does
    assert is_running(pid_in(tmp_path / "pid")) == stays
    assert result_of(executor.call()) == 2
    executor.close()
    assert not is_running(pid_in(tmp_path / "pid"))


def test_a_daemon_may_outlive_its_job_on_purpose(make, tmp_path):
    """As the embedded server does."""
    executor = make(f"{FUNCTIONS}:leave", slots=1)
    (ended,) = executor.run({"kind": "unmarked", "file": str(tmp_path / "pid")})
    pid = pid_in(tmp_path / "pid")
    try:
        assert result_of(ended) == 1
        executor.close()
        assert is_running(pid)
    finally:
        send(pid, signal.SIGKILL)


def test_a_child_that_dies_leaves_nothing(make, method, tmp_path):
    if method is Method.RQ:
        pytest.skip("whose children are others' affair")
    executor = make(f"{FUNCTIONS}:hang", slots=1)
    files = [tmp_path / kind for kind in ("group", "session")]
    for file in files:
        (hung,) = executor.submit({"kind": file.name, "file": str(file)})
        executor.until(file.exists)
        for pid in executor.children():
            send(pid, signal.SIGKILL)
        assert executor.wait([hung])[0].outcome == "lost"
        executor.call()
        assert not is_running(pid_in(file))


@pytest.mark.parametrize("kind", ["session", *soak("timeout", "group")])
def test_programs_are_asked_first(make, tmp_path, kind):
    executor = make(f"{FUNCTIONS}:hang", slots=1, time_limit_s=1.0)
    file = tmp_path / "pid"
    late, _ = executor.run({"kind": kind, "file": str(file), "program": leftover_functions.TIDY}, {})
    assert late.outcome == "timeout"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pid", "pid.term"]


@seldom
def test_those_that_do_not_end_are_killed(make, method, tmp_path, monkeypatch):
    if method is Method.RQ:
        pytest.skip("it runs in others' processes, with the constants that they know")
    monkeypatch.setattr(leftovers, "TERM_S", 0.2)
    executor = make(f"{FUNCTIONS}:hang", slots=1, time_limit_s=1.0)
    file = tmp_path / "pid"
    config = {"kind": "session", "file": str(file), "program": leftover_functions.STUBBORN}
    late, _ = executor.run(config, {})
    assert late.outcome == "timeout"
    assert not is_running(pid_in(file))


@seldom
def test_what_is_slow_to_end_keeps_no_other_slot_waiting(make, method, tmp_path):
    if method in (Method.RQ, Method.THREAD):
        pytest.skip("one process has all slots, or there is one for each")
    executor = make(f"{FUNCTIONS}:hang", slots=2, time_limit_s=1.0)
    file = tmp_path / "pid"
    config = {"kind": "group", "file": str(file), "program": leftover_functions.STUBBORN}
    (late,) = executor.wait(executor.submit(config))
    assert late.outcome == "timeout"
    assert [result_of(one) for one in executor.run({}, {}, {})] == [2, 3, 4]
    assert is_running(pid_in(file)), "they ran meanwhile, in the other slot"
    executor.until(lambda: not is_running(pid_in(file)))


@seldom
def test_what_is_slow_to_end_keeps_its_slot_from_other_campaigns(make, method, tmp_path, monkeypatch):
    if method is Method.RQ:
        pytest.skip("slots are those of the fleet")
    monkeypatch.setattr(leftovers, "TERM_S", 1.5)
    one = make(f"{FUNCTIONS}:hang", slots=1)
    other = make(f"{FUNCTIONS}:hang", slots=1, beside=one)
    file = tmp_path / "pid"
    (hung,) = one.submit({"kind": "same", "file": str(file), "program": leftover_functions.STUBBORN})
    one.until(file.exists)
    assert one.executor.forget([hung], begun=True) == [hung]
    (after,) = other.submit({})
    other.until(lambda: one.turn() or after in other.ended)
    assert result_of(other.ended[after]) == 1
    assert not is_running(pid_in(file)), "it ran on beside the next job"


@seldom
def test_a_worker_that_ends_does_not_wait_long_for_programs(make, method, tmp_path, monkeypatch):
    """Who ends it may kill it soon, and then it has not given back what ran."""
    if method is Method.RQ:
        pytest.skip("it runs in others' processes")
    monkeypatch.setattr(leftovers, "TERM_S", 60.0)
    executor = make(f"{FUNCTIONS}:hang", slots=1)
    file = tmp_path / "pid"
    executor.submit({"kind": "session", "file": str(file), "program": leftover_functions.STUBBORN})
    executor.until(file.exists)
    began_at = time.monotonic()
    executor.close()
    assert time.monotonic() - began_at < 30
    assert not is_running(pid_in(file))


@seldom
def test_what_programs_take_while_they_end_is_not_the_next_jobs(make, method, tmp_path, monkeypatch):
    if method in (Method.RQ, Method.SUBPROCESS):
        pytest.skip("no job waits in the process of another one")
    monkeypatch.setattr(Dispatcher, "queue_depth", lambda _dispatcher: 1)
    executor = make(f"{FUNCTIONS}:leave", slots=1, memory_limit=200 * 2**20)
    first, second = executor.run({"kind": "growing", "file": str(tmp_path / "pid")}, {})
    assert (result_of(first), result_of(second)) == (1, 2)


WORKER = """
    import sys
    from queue_eval.model.attempt import Attempt
    from queue_eval.runtime.pipe import Setup
    from queue_eval.model.states import Method
    from workers.executors.protocol import Plan
    from workers.runner import Runner

    class Reports:
        def ended(self, *_, **__): ...
        loaded = given_up = troubled = ended

    method, root, *configs = sys.argv[1:]
    setup = Setup("tests.support.leftover_functions:hang", None, (root,), {}, threads=1)
    runner = Runner(Reports())
    runner.start()
    plan = Plan(Method(method), setup, 2, None, sys.executable, revision=1)
    runner.submit("lane", plan, [Attempt((i, 1), config.encode()) for i, config in enumerate(configs, 1)])
    sys.stdin.read()
    runner.close()
"""


@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_end_of_a_worker_leaves_nothing(method, tmp_path, end):
    """Also its death, and that of its children at once."""
    if method is Method.RQ:
        pytest.skip("what was forwarded to RQ outlives the worker: the next one joins it")
    files = [tmp_path / "timeout", tmp_path / "session"]
    configs = [f'{{"kind": "{file.name}", "file": "{file}"}}' for file in files]
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(method), str(ROOT), *configs]
    with Started(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as worker:
        pids = [pid_in(file) for file in files]
        if end == "kill":
            worker.kill()
        assert worker.stdin is not None
        worker.stdin.close()
    if end == "kill":
        wait_until(lambda: not any(map(is_running, pids)))
    assert not any(map(is_running, pids))
