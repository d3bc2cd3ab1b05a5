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


def make_executor(method: Method, plan: Plan, selector: selectors.BaseSelector) -> Executor:
    """The executor of a method. Raises MethodUnavailableError for one that this version cannot run."""
    maker = _EXECUTORS.get(method)
    if maker is None:
        raise MethodUnavailableError(f"method {method.value!r} is not there yet in this version")
    return maker(plan, selector)
