"""Executes attempts: one small protocol, one module for each method."""

from __future__ import annotations

import importlib.util
import selectors
from collections.abc import Callable

from queue_eval.errors import MethodUnavailableError
from queue_eval.model.states import Method
from workers.executors.child_limit import ChildLimit
from workers.executors.process import process_executor
from workers.executors.protocol import Executor, Plan
from workers.executors.ray import ray_executor
from workers.executors.rq import rq_executor
from workers.executors.subprocess import subprocess_executor
from workers.executors.thread import thread_executor

_EXECUTORS: dict[Method, Callable[[Plan, selectors.BaseSelector, ChildLimit], Executor]] = {
    Method.THREAD: thread_executor,
    Method.PROCESS: process_executor,
    Method.SUBPROCESS: subprocess_executor,
    Method.RAY: ray_executor,
    Method.RQ: rq_executor,
}

_PACKAGES = {Method.RAY: "ray", Method.RQ: "rq"}


def check_method(method: Method) -> None:
    """Raise MethodUnavailableError for a method whose package is missing here."""
    package = _PACKAGES.get(method)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MethodUnavailableError(
            f"method {method.value!r} needs the package {package}; "
            f"install it with: pip install 'queue-eval[{package}]'"
        )


def make_executor(
    plan: Plan, selector: selectors.BaseSelector, limit: ChildLimit | None = None
) -> Executor:
    """`limit` bounds the children of all executors of a worker; None: of this one alone."""
    return _EXECUTORS[plan.method](plan, selector, limit or ChildLimit())
