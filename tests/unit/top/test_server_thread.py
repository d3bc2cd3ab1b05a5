"""The thread of the live view: what it reads, does and tells, in which order."""

from __future__ import annotations

import threading

import pytest

from queue_eval.errors import UsageError
from queue_eval.top import server_thread
from queue_eval.top.server_thread import Crashed, Looked, Performed, ServerThread, Troubled
from queue_eval.transport.access import Access
from tests.support.waiting import wait_until


class Numbers:
    """Counts how often it is read."""

    def __init__(self):
        self.count = 0
        self.is_closed = False

    def read(self):
        self.count += 1
        return self.count

    def close(self):
        self.is_closed = True


@pytest.fixture
def thread():
    thread = ServerThread(Access("redis://127.0.0.1:1", "", None))
    thread.events = []
    thread.post = thread.events.append
    thread.start()
    yield thread
    thread.close()


def test_the_last_look_is_read_and_a_look_that_is_left_is_closed(thread):
    below, above = Numbers(), Numbers()
    thread.watch(below)
    wait_until(lambda: Looked(below, 1) in thread.events)
    thread.watch(above)
    wait_until(lambda: Looked(above, 1) in thread.events)
    thread.hurry()
    wait_until(lambda: above.count == 2)
    thread.leave(above)
    wait_until(lambda: below.count >= 2)
    assert above.is_closed
    assert not below.is_closed
    thread.close()
    assert below.is_closed


def test_actions_tell_what_came_of_them(thread):
    def refuse():
        raise UsageError("no")

    thread.perform(lambda: "done")
    thread.perform(refuse)
    wait_until(lambda: len(thread.events) == 2)
    assert thread.events[0] == Performed("done")
    assert isinstance(thread.events[1], Troubled)
    assert str(thread.events[1].error) == "no"


def test_it_rests_the_longer_the_more_a_look_costs(thread, monkeypatch):
    monkeypatch.setattr(server_thread, "READ_EVERY_S", 0.0)
    times_s = iter([0.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr(server_thread.time, "thread_time", lambda: next(times_s))
    look = Numbers()
    thread.watch(look)
    wait_until(lambda: look.count == 2)  # the first has cost nothing, the second a second
    wait_until(lambda: len(thread.events) == 2)
    monkeypatch.undo()
    assert thread.busy_s == 0.0
    thread.perform(lambda: "done")
    wait_until(lambda: look.count == 3)  # whatever was done is shown at once


def test_how_long_it_is_busy_is_known(thread):
    go_on = threading.Event()

    def action():
        assert go_on.wait(20)
        return "done"

    thread.perform(action)
    wait_until(lambda: thread.busy_s > 0.01)
    go_on.set()
    wait_until(lambda: thread.busy_s == 0.0)


def test_an_error_of_this_program_is_told_of(thread):
    error = KeyError("x")

    class Broken(Numbers):
        def read(self):
            raise error

    thread.watch(Broken())
    wait_until(lambda: thread.events == [Crashed(error)])
