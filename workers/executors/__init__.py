"""How attempts are executed: one small protocol, one module per method."""

from __future__ import annotations

import selectors
from collections.abc import Callable

from queue_eval.errors import MethodUnavailableError
from queue_eval.states import Method
from workers.executors.process import process_executor
from workers.executors.protocol import Executor, Plan
from workers.executors.subprocess import subprocess_executor
from workers.executors.thread import thread_executor

_EXECUTORS: dict[Method, Callable[[Plan, selectors.BaseSelector], Executor]] = {
    Method.THREAD: thread_executor,
    Method.PROCESS: process_executor,
    Method.SUBPROCESS: subprocess_executor,
}


def check_method(method: Method) -> None:
    """Raise MethodUnavailableError for a method that this version cannot run."""
    if method not in _EXECUTORS:
        raise MethodUnavailableError(f"method {method.value!r} is not there yet in this version")


def make_executor(plan: Plan, selector: selectors.BaseSelector) -> Executor:
    return _EXECUTORS[plan.method](plan, selector)
