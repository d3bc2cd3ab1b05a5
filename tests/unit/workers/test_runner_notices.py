"""Notices to attempts that the runner does not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from queue_eval.model.attempt import Attempt, Token
from queue_eval.runtime.notices import STOP, notice_file, read_notice
from tests.support.waiting import wait_until
from workers import runner as running
from workers.runner import Runner

TOKEN = (3, 1)


class FakeExecutor:
    """Notes what it had been told of each attempt when it was submitted."""

    slots, children, departing, trouble = 1, 0, 0, ""

    def __init__(self) -> None:
        self.words: dict[Token, str] = {}
        self.held: list[tuple[Token, str | None]] = []

    def submit(self, attempts: list[Attempt]) -> None:
        self.held += [(attempt.token, self.words.get(attempt.token)) for attempt in attempts]

    def notify(self, tokens: list[Token], word: str) -> None:
        self.words |= dict.fromkeys(tokens, word)

    def take_load(self) -> bool:
        return False

    def waiting(self) -> int:
        return len(self.held)

    def next_deadline(self) -> None:
        return None

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: []


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> FakeExecutor:
    made = FakeExecutor()
    monkeypatch.setattr(running, "make_executor", lambda *_: made)
    return made


@pytest.fixture
def runner(executor: FakeExecutor) -> Iterator[Runner]:
    reports = SimpleNamespace(ended=lambda *_: None, loaded=lambda *_: None, troubled=lambda *_: None)
    made = Runner(cast("Any", reports))
    made.start()
    yield made
    made.close()


def test_a_forwarder_is_told_what_was_to_be_told_before_it_had_the_attempt(
    runner: Runner, executor: FakeExecutor
) -> None:
    runner.notify("lane", [TOKEN], STOP)
    runner.submit("lane", cast("Any", SimpleNamespace(slots=1)), [Attempt(TOKEN, b"{}", 1)])
    wait_until(lambda: executor.held == [(TOKEN, STOP)])


def test_the_first_attempt_of_a_worker_finds_the_word_at_its_beginning(
    runner: Runner, executor: FakeExecutor
) -> None:
    runner.notify("lane", [TOKEN], STOP)
    runner.submit("lane", cast("Any", SimpleNamespace(slots=1)), [Attempt(TOKEN, b"{}", 1)])
    wait_until(lambda: executor.held)
    folder = runner._mailroom.folder
    assert read_notice(notice_file(str(folder), "lane", *TOKEN)) == STOP
