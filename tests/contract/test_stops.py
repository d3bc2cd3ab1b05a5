"""Who runs user code outlives stop signals; what user code starts, forks and handles is as elsewhere."""

from __future__ import annotations

import os
import signal

import pytest

from queue_eval.model.states import Method
from queue_eval.runtime.stop_signals import STOP_SIGNALS
from tests.support.executor_harness import is_running, result_of


@pytest.mark.parametrize(
    ("act", "result"),
    [
        ("terminate_program", -signal.SIGTERM), ("limit_program", 124), ("trap", 7),
        ("terminate_pool", "terminated"),
    ],
)  # fmt: skip
def test_programs_and_pools_of_user_code_can_be_ended(make, method, act, result):
    if method is Method.RAY and act == "terminate_pool":
        pytest.skip("Ray's own handlers are inherited by the pool")
    assert result_of(make(slots=1).call(do=act)) == result


def test_what_user_code_forks_dies_of_stop_signals(make, method):
    if method is Method.RAY:
        pytest.skip("Ray's processes handle signals in their own way, and so do their forks")
    statuses = result_of(make(slots=1).call(do="terminate_fork"))
    # Python's default for SIGINT is KeyboardInterrupt, of which a process ends with status 1.
    assert statuses == {"SIGTERM": -15, "SIGINT": 1, "SIGHUP": -1, "SIGUSR1": -10, "SIGUSR2": -12}


def test_a_handler_of_user_code_stays(make, method):
    if method is not Method.PROCESS:
        pytest.skip("only a warm process with one thread has handlers that stay")
    executor = make(slots=1)
    ended = executor.run({"do": "keep_handler"}, {"do": "count_handled"})
    assert [result_of(one) for one in ended] == [None, 1]


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("before", ["nothing", "default_handlers"])
def test_stop_signals_do_not_end_an_attempt(make, method, tmp_path, number, before):
    if method in (Method.RAY, Method.SUBPROCESS) and before != "nothing":
        pytest.skip("no attempt comes after another one")
    if method is Method.RAY:
        pytest.skip("Ray's processes are Ray's")
    executor = make(slots=1)
    executor.call(do=before)
    gate = tmp_path / "gate"
    (token,) = executor.submit({"do": "wait_for", "gate": str(gate), "started": str(tmp_path / "started")})
    executor.until((tmp_path / "started").exists)
    children = executor.children()
    assert children
    for pid in children:
        os.kill(pid, number)
    for pid in children:
        assert is_running(pid)
    gate.touch()
    (one,) = executor.wait([token])
    assert result_of(one) == 2
