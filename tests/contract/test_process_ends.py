"""A process that has run its last attempt ends as Python ends, within some seconds."""

from __future__ import annotations

import pytest

from queue_eval.model.states import Method
from tests.support.executor_harness import Harness, result_of, text_of
from workers.executors import departures

FUNCTIONS = "tests.support.end_functions"
WRITTEN = ["atexit", "file", "thread"]


def written(folder):
    return sorted(file.name for file in folder.iterdir() if file.read_text() == "written")


@pytest.fixture(params=[Method.PROCESS, Method.SUBPROCESS])
def execution(request):
    return str(request.param)


@pytest.fixture
def once(method):
    """What makes a process run one attempt."""
    return {} if method is Method.SUBPROCESS else {"jobs_per_child": 1}


def test_what_an_attempt_has_left_to_do_is_done_when_its_result_is_there(make, once, tmp_path):
    executor = make(f"{FUNCTIONS}:leave_work", slots=1, **once)
    (ended,) = executor.run({"folder": str(tmp_path)})
    assert result_of(ended) == 1
    assert written(tmp_path) == WRITTEN
    assert ended.output == b"uploaded\n"


def test_an_idle_process_does_it_when_all_is_closed(make, method, tmp_path):
    executor = make(f"{FUNCTIONS}:leave_work", slots=1)
    executor.run({"folder": str(tmp_path)})
    executor.executor.close()
    assert written(tmp_path) == WRITTEN


def test_an_end_that_never_comes_is_cut_off(make, once, monkeypatch):
    monkeypatch.setattr(departures, "END_S", 0.5)
    executor = make(f"{FUNCTIONS}:hang_at_exit", slots=1, **once)
    first, second = executor.run({}, {})
    assert (result_of(first), result_of(second)) == (1, 2)
    assert b"had not ended 0.5 s after this job, and was killed" in first.output


def test_a_process_that_still_loads_the_function_is_not_waited_for(make, method, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n(pathlib.Path(__file__).parent / 'loading').touch()\ntime.sleep(1000)\n"
    )
    executor = make("slow:run", slots=1, path=(tmp_path,))
    (token,) = executor.submit({})
    executor.until((tmp_path / "loading").exists)
    assert executor.executor.forget([token], begun=True) == [token]
    executor.until(lambda: not executor.executor.departing)
    executor.close()
    assert not executor.children()


def test_an_abandoned_thread_is_not_waited_for(tmp_path, monkeypatch):
    """It never ends."""
    monkeypatch.setattr(departures, "END_S", 1000.0)
    executor = Harness(Method.THREAD, "do", slots=2, jobs_per_child=2)
    try:
        gate = tmp_path / "gate"
        last = {"do": "wait_for", "gate": str(gate), "started": str(tmp_path / "started")}
        hung, kept = executor.submit({"do": "hang"}, last)
        executor.until((tmp_path / "started").exists)
        assert executor.executor.forget([hung], begun=True) == [hung]
        gate.touch()
        assert result_of(executor.wait([kept])[0]) == 2
    finally:
        executor.close()


def test_a_death_at_the_end_takes_nothing_from_the_result(make, once):
    executor = make(f"{FUNCTIONS}:die_at_exit", slots=1, **once)
    assert [result_of(one) for one in executor.run({}, {})] == [1, 2]


def test_a_result_that_waits_for_the_end_may_still_be_forgotten(make, once):
    executor = make(f"{FUNCTIONS}:hang_at_exit", slots=1, **once)
    (token,) = executor.submit({})
    executor.until(lambda: executor.executor.departing)
    assert executor.executor.begun() == [token]
    assert executor.executor.forget([token], begun=False) == []
    assert executor.executor.forget([token], begun=True) == [token]
    assert executor.executor.begun() == []
    executor.close()
    assert executor.ended == {}


@pytest.mark.parametrize("close", ["return", "hang"])
def test_user_code_that_closes_our_connection_is_named(make, method, close):
    executor = make(f"{FUNCTIONS}:close_all", slots=1)
    bad, good = executor.run({"close": close}, {})
    assert bad.outcome == "lost"
    assert "memory" not in text_of(bad)
    assert "closerange" in text_of(bad) or (close == "return" and "exit status 1" in text_of(bad))
    assert result_of(good) == 2
