"""Points on their way out of a process: bounded, counted, in order, and none after the end."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from queue_eval.errors import AttemptEndedError
from queue_eval.runtime.pipe import MAX_DATAGRAM_BYTES
from queue_eval.runtime.report_sender import MAX_WAITING, ReportSender
from tests.support.waiting import wait_until


class Pipe:
    """Takes frames, or has no room, or is broken, or raises as a handler of user code would."""

    def __init__(self) -> None:
        self.frames: list[tuple[tuple[Any, ...], bytes]] = []
        self.has_room = True
        self.error: BaseException | None = None

    def __call__(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        if self.error is not None:
            raise self.error
        if not self.has_room and not wait:
            return False
        assert len(body) < MAX_DATAGRAM_BYTES
        self.frames.append((header, body))
        return True

    @property
    def points(self) -> list[tuple[int, dict[str, float]]]:
        lines = [line.split(b" ", 2) for _, body in self.frames for line in body.splitlines()]
        return [(int(step), json.loads(values)) for _, step, values in lines]

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.points]

    @property
    def dropped(self) -> int:
        return sum(header[4] for header, _ in self.frames if header[0] == "points")


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def sender(pipe: Pipe) -> Any:
    sender = ReportSender((3, 2), time.monotonic() - 1, pipe)
    yield sender
    pipe.error = None
    sender.finish()


def test_a_single_point_goes_at_once(sender: ReportSender, pipe: Pipe) -> None:
    threads = threading.active_count()
    sender.report(5, {"loss": 0.5})
    ((header, body),) = pipe.frames
    assert header[:3] == ("points", 3, 2)
    assert 1000 <= header[3] < 60_000
    assert header[4] == 0
    elapsed_ms, step, values = body.split(b" ", 2)
    assert 1000 <= int(elapsed_ms) <= header[3]
    assert (step, values) == (b"5", b'{"loss":0.5}\n')
    assert threading.active_count() == threads


def test_the_rest_goes_by_itself(sender: ReportSender, pipe: Pipe) -> None:
    for step in range(300):
        sender.report(step, {"x": step})
    wait_until(lambda: pipe.steps == list(range(300)))
    assert pipe.dropped == 0


def test_a_step_that_goes_back_is_another_point(sender: ReportSender, pipe: Pipe) -> None:
    pipe.has_room = False
    for step in (5, 3, 4, 3):
        sender.report(step, {"x": step})
    sender.finish()
    assert pipe.steps == [5, 4, 3]


def test_the_newest_value_of_each_name_and_step_is_kept(sender: ReportSender, pipe: Pipe) -> None:
    pipe.has_room = False
    sender.report(1, {"a": 1})
    sender.report(2, {"a": 2})
    sender.report(1, {"b": 3})
    assert sender._dropped == 0
    sender.report(1, {"a": 4})
    sender.finish()
    assert pipe.points == [(2, {"a": 2}), (1, {"a": 4, "b": 3})]
    assert pipe.dropped == 1


def test_what_cannot_be_one_point_stays_two(sender: ReportSender, pipe: Pipe) -> None:
    pipe.has_room = False
    sender.report(1, {f"a{i}": i for i in range(60)})
    sender.report(1, {f"b{i}": i for i in range(60)})
    sender.report(1, {"x" * 3900: 1})
    sender.report(1, {"y" * 3900: 1})
    sender.finish()
    assert pipe.steps == [1] * 4
    assert sum(len(values) for _, values in pipe.points) == 122
    assert pipe.dropped == 0


def test_many_points_are_thinned_and_counted(sender: ReportSender, pipe: Pipe) -> None:
    pipe.has_room = False
    for step in range(100_000):
        sender.report(step, {"x": step})
    assert len(sender._waiting) <= MAX_WAITING
    assert not sender._arrived
    sender.finish()
    assert (pipe.steps[0], pipe.steps[-1]) == (0, 99_999)
    assert pipe.steps == sorted(pipe.steps)
    assert len(pipe.steps) + pipe.dropped == 100_000


def test_nothing_is_sent_after_the_end(sender: ReportSender, pipe: Pipe) -> None:
    pipe.has_room = False
    sender.report(1, {"x": 1})
    sender.frame("looked")
    sender.finish()
    sender.finish()
    assert [header[0] for header, _ in pipe.frames] == ["looked", "points"]
    for use in (lambda: sender.report(2, {"x": 1}), lambda: sender.frame("looked")):
        with pytest.raises(AttemptEndedError, match="is over"):
            use()
    assert len(pipe.frames) == 2


def test_the_flusher_ends(sender: ReportSender) -> None:
    sender.report(1, {"x": 1})
    sender.report(2, {"x": 1})
    wait_until(lambda: sender._has_flusher)
    wait_until(lambda: not sender._has_flusher)
    sender.report(3, {"x": 1})
    sender.report(4, {"x": 1})
    assert sender._has_flusher


def test_nobody_receives(sender: ReportSender, pipe: Pipe) -> None:
    pipe.error = ConnectionRefusedError(111, "Connection refused")
    for _ in range(2):
        with pytest.raises(AttemptEndedError, match=r"worker of this job is gone \(Connection refused\)"):
            sender.report(1, {"x": 1})
    sender.finish()


def test_a_handler_that_raises_while_a_point_is_sent(sender: ReportSender, pipe: Pipe) -> None:
    """Nobody knows whether it was sent: it is counted, and never sent twice."""
    pipe.error = TimeoutError_()
    with pytest.raises(TimeoutError_):
        sender.report(1, {"x": 1})
    pipe.error = None
    sender.report(2, {"x": 1})
    sender.finish()
    assert (pipe.steps, pipe.dropped) == ([2], 1)


class TimeoutError_(Exception):  # noqa: N801, N818 - of user code
    """No OSError."""


def test_a_handler_that_reports_in_the_middle(pipe: Pipe) -> None:
    def send(header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        if not pipe.frames:
            pipe(("none",))
            sender.report(2, {"x": 2})
            sender.frame("looked")
            sender.finish()
        return pipe(header, body, wait=wait)

    sender = ReportSender((1, 1), time.monotonic(), send)
    sender.report(1, {"x": 1})
    sender.finish()
    assert pipe.steps == [1, 2]
    assert [header[0] for header, _ in pipe.frames] == ["none", "points", "looked", "points"]


def test_many_threads(sender: ReportSender, pipe: Pipe) -> None:
    def work(first: int) -> None:
        for step in range(first, first + 200):
            sender.report(step, {"x": step})

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender.finish()
    assert len(pipe.steps) == len(set(pipe.steps))
    assert len(pipe.steps) + pipe.dropped == 1600
