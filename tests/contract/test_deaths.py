"""Deaths, limits, and what is taken away: what ends, what does not, and that nothing is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from queue_eval.chaos.processes import send
from queue_eval.model.states import Method
from tests.support.executor_harness import (
    FORWARDING,
    Harness,
    is_running,
    members_of_session,
    result_of,
    text_of,
)
from tests.support.waiting import wait_until
from workers.executors import pool
from workers.executors.protocol import NO_INTERPRETER


@pytest.fixture
def gate(tmp_path):
    """A file that lets `wait_for` end."""
    return tmp_path / "gate"


def waiting_job(gate, name):
    return {"do": "wait_for", "gate": str(gate), "started": str(gate.parent / name)}


@pytest.mark.parametrize(
    ("act", "death"), [("exit_process", "exit status 3"), ("segfault", "killed by SIGSEGV")]
)
def test_a_death_costs_its_own_attempt(make, method, gate, act, death):
    executor = make()
    neighbour, bad, *others = executor.submit(waiting_job(gate, "started"), {"do": act}, {}, {}, {})
    (dead,) = executor.wait([bad])
    assert dead.outcome == "lost"
    if method is Method.RAY:  # which tells no more, and keeps what a dead process has printed to itself
        assert "the process that ran this job died: The worker died" in text_of(dead)
    else:
        assert f"the process that ran this job died: {death}" in text_of(dead)
        assert act != "exit_process" or b"last words" in dead.output or method is Method.THREAD
    gate.touch()
    executor.wait([neighbour, *others])
    # Threads share their process.
    lost = [token for token, one in executor.ended.items() if one.outcome == "lost"]
    assert set(lost) <= ({bad, neighbour} if method is Method.THREAD else {bad})
    assert [result_of(one) for one in executor.run({}, {})] == [6, 7]


def test_a_killed_child_is_replaced(make, method, tmp_path):
    executor = make()
    first, second, *waiting = executor.submit(
        *({"do": "hang", "started": str(tmp_path / name)} for name in "ab"), {}, {}
    )
    started = [tmp_path / name for name in "ab"]
    executor.until(lambda: all(file.exists() for file in started))
    for pid in {int(file.read_text()) for file in started}:
        os.kill(pid, signal.SIGKILL)
    for one in executor.wait([first, second]):
        assert one.outcome == "lost"
        if method is not Method.RAY:
            assert text_of(one).startswith("the process that ran this job died: killed by SIGKILL")
            assert "memory is short" in text_of(one)
    assert [result_of(one) for one in executor.wait(waiting)] == [3, 4]


def test_an_idle_child_that_was_killed_costs_nothing(make, method):
    executor = make(slots=1)
    executor.call()
    killed = executor.children()
    for pid in killed:
        assert send(pid, signal.SIGKILL) or method is Method.RAY  # whose idle processes come and go
        wait_until(lambda pid=pid: not is_running(pid))
    ended = executor.run(*({} for _ in killed), {}, {})
    # Ray gives a dead process work for as long as it has not noticed, and does not tell that it never began.
    spared = [(place, one) for place, one in enumerate(ended) if one.outcome != "lost"]
    assert len(ended) - len(spared) <= (len(killed) if method is Method.RAY else 0)
    assert [result_of(one) for _, one in spared] == [place + 2 for place, _ in spared]


def test_a_time_limit(make, method, tmp_path):
    executor = make(time_limit_s=0.5)
    late, *others = executor.submit({"do": "hang", "started": str(tmp_path / "pid")}, {}, {}, {})
    (one,) = executor.wait([late])
    assert (one.outcome, text_of(one)) == ("timeout", "ran longer than its time limit of 0.5 s")
    assert one.run_ms >= 500
    assert [result_of(other) for other in executor.wait(others)] == [2, 3, 4]
    # A thread cannot be killed, but nothing else runs beside it.
    pid = int((tmp_path / "pid").read_text())
    executor.until(lambda: not is_running(pid))
    assert executor.executor.slots == 2
    assert [result_of(other) for other in executor.run({}, {})] == [5, 6]


def test_a_death_before_the_function_is_loaded(make, method, tmp_path):
    if method in FORWARDING:
        pytest.skip("it is loaded by others")
    (tmp_path / "dies.py").write_text("import os\nprint('last words', flush=True)\nos._exit(5)\n")
    executor = make("dies:run", path=(tmp_path,))
    for one in executor.run({}, {}, {}):
        assert one.outcome == "lost"
        assert "the process that was to load the run function died: exit status 5" in one.unloaded
        assert "last words" in one.unloaded
        assert one.unloaded == text_of(one)
    assert not executor.executor.take_load()


def test_a_function_that_takes_too_long_to_load(make, method, tmp_path, monkeypatch):
    if method in FORWARDING:
        pytest.skip("it is loaded by others")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(100)\n")
    monkeypatch.setattr(pool, "LOADING_S", 0.1)
    for one in make("slow:run", path=(tmp_path,), time_limit_s=0.1).run({}, {}):
        assert one.outcome == "timeout"
        assert one.unloaded == "was still loading its run function longer than its time limit of 0.1 s"


def test_an_abandoned_thread_is_told_of_as_a_missing_slot(gate):
    executor = Harness(Method.THREAD, "do", time_limit_s=5.0)
    try:
        hung, kept = executor.submit({"do": "hang"}, waiting_job(gate, "started"))
        executor.until(lambda: (gate.parent / "started").exists())
        assert executor.executor.forget([hung], begun=True) == [hung]
        assert executor.executor.slots == 1
        assert executor.executor.begun() == [kept]
        gate.touch()
        executor.wait([kept])
        assert executor.executor.slots == 2
    finally:
        executor.close()


def test_a_gil_hog_runs_out_of_time(make, method, tmp_path):
    executor = make(slots=1, time_limit_s=0.5)
    (one,) = executor.wait(executor.submit({"do": "hog", "started": str(tmp_path / "pid")}))
    assert one.outcome == "timeout"
    pid = int((tmp_path / "pid").read_text())
    if method in FORWARDING:  # those are told, and end it soon
        wait_until(lambda: not is_running(pid))
    assert not is_running(pid)
    assert result_of(executor.call()) == 2


def test_forgetting_and_taking_back(make, method, gate):
    executor = make()
    folder = gate.parent
    running, kept, first, second, third = executor.submit(
        {"do": "hang", "started": str(folder / "a")}, waiting_job(gate, "b"), {}, {}, {}
    )
    executor.until(lambda: (folder / "a").exists() and (folder / "b").exists())
    # The forwarder hears of it only after the job has made its file.
    executor.until(lambda: set(executor.executor.begun()) == {running, kept})
    assert executor.executor.waiting() == 3
    # Those that run stay, unless they are to be stopped.
    assert executor.executor.forget([running, second], begun=False) == [second]
    assert executor.executor.take_back(submitted_before=0.0) == []
    back = executor.executor.take_back(submitted_before=1e12)
    executor.until(lambda: executor.executor.waiting() == 0)
    assert sorted([*back, *executor.returned]) == [first, third]
    pid = int((folder / "a").read_text())
    assert executor.executor.forget([running, (99, 1)], begun=True) == [running]
    if method not in FORWARDING:  # those are told, and end it soon
        assert is_running(pid) == (method is Method.THREAD)
    gate.touch()
    (one,) = executor.wait([kept])
    assert result_of(one) == 2
    executor.until(lambda: not is_running(pid))
    assert [result_of(one) for one in executor.run({}, {})] == [6, 7]
    assert set(executor.ended) == {kept, (6, 1), (7, 1)}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("method", [Method.THREAD, Method.PROCESS])
def test_what_is_queued_in_a_child_is_taken_back_too(method, slots, tmp_path):
    """Short attempts queue in the child; behind one that turns out long they are stuck."""
    executor = Harness(method, "do", slots=slots)
    try:
        queue_depth = executor.executor._dispatcher.queue_depth
        executor.until(lambda: executor.run(*[{}] * 50) and queue_depth(), timeout_s=60)
        count = len(executor.ids)
        long = [waiting_job(tmp_path / "gate", str(i)) for i in range(slots)]
        files = [{"do": "wait_for", "gate": __file__, "started": str(tmp_path / f"q{i}")} for i in range(4)]
        running, queued = executor.submit(*long), executor.submit(*files)
        executor.until(lambda: all((tmp_path / str(i)).exists() for i in range(slots)))
        assert set(executor.executor.begun()) == set(running)
        assert executor.executor.forget(queued[:1], begun=False) == queued[:1]
        assert sorted(executor.executor.take_back(submitted_before=1e12)) == queued[1:]
        assert queue_depth() == 0
        (tmp_path / "gate").touch()
        executor.wait(running)
        executor.run({})
        assert not list(tmp_path.glob("q*"))
        assert len(executor.ended) == count + slots + 1
    finally:
        executor.close()


def test_another_attempt_of_a_job_beside_the_first(make, gate):
    """A lease was taken away and came back to the same worker: the first attempt may still end."""
    executor = make()
    (first,) = executor.submit(waiting_job(gate, "started"))
    executor.until(lambda: (gate.parent / "started").exists())
    executor.ids.clear()
    (second,) = executor.submit({}, attempt=2)
    assert result_of(executor.wait([second])[0]) == 1
    gate.touch()
    assert executor.wait([first])[0].outcome == "ok"


def test_closing_leaves_no_process(make, method, tmp_path):
    executor = make()
    (orphaned,) = executor.run({"do": "orphan"})
    running, *waiting = executor.submit({"do": "hang", "started": str(tmp_path / "pid")}, {"do": "hang"}, {})
    executor.until(lambda: (tmp_path / "pid").exists())
    children = executor.children()
    assert children
    unfinished = executor.executor.close()
    assert set(unfinished) == {running, *waiting}
    assert executor.executor.close() == []
    if method is Method.RAY:  # its other processes are its own affair
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not is_running(pid) and not is_running(result_of(orphaned)))
    else:
        # All were sent SIGKILL; what user code has left behind ends in its own time.
        wait_until(lambda: not any(members_of_session(pid) for pid in children))
        assert not is_running(result_of(orphaned))
    assert len(executor.selector.get_map()) == 0


def test_an_idle_forwarder_ends_in_order(make, method):
    """Ray goes on counting the slot of an attempt that has just ended when its driver is killed."""
    if method not in FORWARDING:
        pytest.skip("nothing is forwarded")
    executor = make()
    executor.run({}, {})
    forwarder = executor.executor._process
    assert executor.executor.close() == []
    assert forwarder.describe_exit() == "exit status 0"


def test_an_interpreter_that_is_not_there(make):
    executor = make(python="/no/such/python")
    for one in executor.run({}, {}):
        assert one.outcome == "lost"
        assert "cannot start /no/such/python" in text_of(one)
        assert one.unloaded == NO_INTERPRETER + text_of(one)
    assert len(executor.selector.get_map()) == 0


def test_garbage_in_the_pipe_costs_its_own_attempt(make, method):
    executor = make(slots=1)
    bad, good = executor.run({"do": "write_into_pipe"}, {})
    assert bad.outcome == "lost" or method is Method.RAY  # which may not have read it
    assert result_of(good) == 2
