"""Drives an executor as the worker's runner does, in the test's own thread."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.states import Method
from queue_eval.runtime.pipe import Setup
from workers.executors import make_executor
from workers.executors.child_limit import ChildLimit
from workers.executors.protocol import Ended, Plan

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "tests.support.executor_functions"

FORWARDING = (Method.RAY, Method.RQ)
"""Methods whose attempts run in processes of others."""


class Harness:
    """One executor and its selector. `ended` collects what it tells, by token."""

    def __init__(
        self, method: Method, function: str = "echo", *, slots: int = 2, time_limit_s: float | None = None,
        payload: bytes | None = None, path: tuple[Path, ...] = (ROOT,), kwargs: dict[str, Any] | None = None,
        python: str = sys.executable, forward: dict[str, Any] | None = None,
        find_children: Callable[[], list[int]] | None = None, memory_limit: int | None = None,
        jobs_per_child: int | None = None, values: str = "json", beside: Harness | None = None,
        inside: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`beside`: another one in the same worker, which is closed after this."""
        name = function if ":" in function else f"{FUNCTIONS}:{function}"
        if forward is not None:
            forward = {"uid": secrets.token_hex(8), **forward, "campaign": "test", "revision": 1,
                       "time_limit_s": time_limit_s, "in_flight": slots}  # fmt: skip
        setup = Setup(name, payload, tuple(map(str, path)), kwargs or {}, threads=1, forward=forward,
                      values=values, inside=inside)  # fmt: skip
        self.selector = selectors.DefaultSelector() if beside is None else beside.selector
        self._limit = ChildLimit() if beside is None else beside._limit
        self._is_alone = beside is None
        self.plan = Plan(
            method, setup, slots, time_limit_s, python, revision=1, memory_limit=memory_limit,
            jobs_per_child=jobs_per_child, campaign="test",
        )  # fmt: skip
        self.executor = make_executor(self.plan, self.selector, self._limit)
        self._find_children = find_children
        self.ended: dict[Token, Ended] = {}
        self.returned: list[Token] = []
        self.ids: list[int] = []

    def submit(self, *configs: dict[str, Any], attempt: int = 1) -> list[Token]:
        tokens = [(len(self.ids) + i + 1, attempt) for i in range(len(configs))]
        self.ids += [job for job, _ in tokens]
        texts = [json.dumps(config).encode() for config in configs]
        self.executor.submit([Attempt(token, text) for token, text in zip(tokens, texts, strict=True)])
        return tokens

    def turn(self) -> None:
        deadline = self.executor.next_deadline()
        pause_s = 0.02 if deadline is None else min(0.02, max(0.0, deadline - time.monotonic()))
        for key, _ in self.selector.select(pause_s):
            key.data()
        for one in self.executor.collect(time.monotonic()):
            assert one.token not in self.ended, "told twice"
            self.ended[one.token] = one
        self.returned += self.executor.take_returned()

    def until(self, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"timed out; ended: {self.ended}"
            self.turn()
        return found

    def wait(self, tokens: list[Token]) -> list[Ended]:
        self.until(lambda: all(token in self.ended for token in tokens))
        return [self.ended[token] for token in tokens]

    def run(self, *configs: dict[str, Any]) -> list[Ended]:
        return self.wait(self.submit(*configs))

    def call(self, **config: Any) -> Ended:
        return self.run(config)[0]

    def children(self) -> list[int]:
        """The processes that run user code."""
        if self._find_children is not None:
            return self._find_children()
        return [child.pid for child in self.executor._children]  # type: ignore[attr-defined]

    def close(self) -> None:
        self.executor.close()
        self.executor.close()
        if self._is_alone:
            self.selector.close()


def result_of(ended: Ended) -> Any:
    assert ended.outcome == "ok", ended
    return json.loads(ended.body)


def text_of(ended: Ended) -> str:
    return ended.body.decode()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def members_of_session(leader: int) -> list[int]:
    """Processes of the session that `leader` began, zombies left out."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members
