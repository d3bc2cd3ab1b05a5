"""Reports on their way to the callbacks: in order, each once, however many threads wait."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from queue_eval.driver.report_queue import ReportQueue
from queue_eval.errors import SearchTerminationError
from queue_eval.model.job import Job
from queue_eval.model.report import Report

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def report(number, attempt=1, second=None):
    at = BEGIN + timedelta(seconds=number if second is None else second)
    return number, Report(number, {"loss": float(number)}, attempt, at)


class Heard:
    """Collects what is delivered. `then`: called with each report, and gives what the callback returns."""

    def __init__(self, then=lambda *_: None):
        self.lock = threading.Condition()
        self.then = then
        self.steps = []
        self.queue = ReportQueue(self.lock, self.hear)

    def hear(self, job, one):
        self.steps.append((job.id, one.attempt, one.step))
        return self.then(job, one)

    def deliver(self, deadline=None):
        return self.queue.deliver(deadline, lambda: None)


def job(job_id=1):
    return Job(job_id, {}, None)


def test_each_is_delivered_once_and_in_order():
    heard, first, second = Heard(), job(1), job(2)
    heard.queue.add(first, [report(1), report(2)], 0)
    heard.queue.add(second, [report(1)], 0)
    assert heard.queue.holds(first)
    heard.deliver()
    heard.deliver()
    assert heard.steps == [(1, 1, 1), (1, 1, 2), (2, 1, 1)]
    assert not heard.queue.holds(first)
    assert heard.queue.after(1, 0) == (1, 2)
    assert heard.queue.after(3, 0) == (0, 0)


def test_reports_of_one_millisecond_are_told_apart_in_another_epoch():
    heard, one = Heard(), job()
    heard.queue.add(one, [report(1, second=1), report(2, second=1)], 0)
    heard.queue.add(one, [report(n, second=1) for n in (1, 2, 3)], 1)
    heard.deliver()
    assert heard.steps == [(1, 1, 1), (1, 1, 2), (1, 1, 3)]


def test_after_a_rollback_of_the_server_a_token_may_stand_for_another_attempt():
    heard, one = Heard(), job()
    heard.queue.add(one, [report(1, 1), report(2, 1), report(1, 2, second=3)], 0)
    assert heard.queue.after(1, 1) == (0, 0)  # all is read again in another epoch
    kept, other = [report(1, 1), report(2, 1)], [report(1, 2, second=8), report(2, 2, second=9)]
    heard.queue.add(one, [*kept, *other, report(1, 3, second=0)], 1)
    heard.deliver()
    assert heard.steps[3:] == [(1, 2, 1), (1, 2, 2), (1, 3, 1)]
    assert heard.queue.after(1, 1) == (3, 1)


def test_a_clock_that_is_set_back_between_two_attempts_repeats_nothing():
    heard, one = Heard(), job()
    kept = [report(1, second=10), report(2, second=11), report(1, attempt=2, second=3)]
    heard.queue.add(one, kept, 0)
    heard.queue.add(one, [*kept, report(2, attempt=2, second=4)], 1)
    heard.queue.add(one, [*kept, report(2, attempt=2, second=4)], 2)
    heard.deliver()
    assert heard.steps == [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2)]


def test_a_clock_that_is_set_back_does_not_repeat_what_a_finished_job_has_reported():
    heard, one = Heard(), job()
    finished = [report(1, second=10), report(2, second=11)]
    heard.queue.add(one, finished, 0)
    heard.queue.close_job(one)
    again = report(1, attempt=2, second=3)
    heard.queue.add(one, [again], 0)
    assert heard.queue.after(1, 1) == (2, 0)
    heard.queue.add(one, [again, report(2, attempt=2, second=4)], 1)
    heard.deliver()
    assert heard.steps == [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2)]


def test_where_the_server_has_kept_all_nothing_is_delivered_again():
    heard, one = Heard(), job()
    heard.queue.add(one, [report(1), report(2)], 0)
    heard.queue.add(one, [report(1), report(2)], 1)
    heard.queue.add(one, [report(1), report(2)], 2)
    heard.queue.add(one, [report(3)], 2)
    heard.deliver()
    assert [step for _, _, step in heard.steps] == [1, 2, 3]


def test_a_finished_job_that_runs_again_reports_its_later_attempts_only():
    heard, one = Heard(), job()
    heard.queue.add(one, [report(1), report(2)], 0)
    heard.queue.close_job(one)
    heard.queue.close_job(job(2))  # it never reported
    assert heard.queue.after(1, 0) == (2, 0)
    assert heard.queue.after(2, 0) == (0, 0)


def test_a_search_that_is_ended_leaves_the_rest():
    end = SearchTerminationError("enough")
    heard, one = Heard(lambda _, one: end if one.step == 2 else None), job()
    heard.queue.add(one, [report(1), report(2), report(3)], 0)
    assert heard.deliver() is end
    assert len(heard.steps) == 2
    assert heard.queue.holds(one)
    assert heard.deliver() is None
    assert not heard.queue.holds(one)


def test_past_its_deadline_it_goes_on_for_a_moment(monkeypatch):
    monkeypatch.setattr("queue_eval.driver.report_queue._LEAST_TURN_S", 0.0)
    heard, one = Heard(), job()
    heard.queue.add(one, [report(number) for number in range(1, 4)], 0)
    heard.deliver(time.monotonic() - 1)
    assert len(heard.steps) == 1
    heard.deliver(time.monotonic() + 60)
    assert len(heard.steps) == 3


def test_an_interruption_between_two_steps_blocks_no_job(monkeypatch):
    heard, one = Heard(), job()
    heard.queue.add(one, [report(1), report(2)], 0)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(heard.queue, "_note_delivered", interrupted)
        with pytest.raises(KeyboardInterrupt):
            heard.deliver()
    assert heard.queue.holds(one)
    heard.deliver()
    assert not heard.queue.holds(one)
    assert len(heard.steps) == 2


def test_an_interrupted_callback_has_had_its_report():
    def interrupted(_, one):
        if one.step == 1:
            raise KeyboardInterrupt

    heard, one = Heard(interrupted), job()
    heard.queue.add(one, [report(1), report(2)], 0)
    with pytest.raises(KeyboardInterrupt):
        heard.deliver()
    heard.deliver()
    assert [step for _, _, step in heard.steps] == [1, 2]


def test_a_callback_that_waits_itself_is_not_called_within():
    heard, one = Heard(), job()

    def waits(_, report):
        assert heard.queue.is_delivered_here
        assert not heard.queue.is_delivered_elsewhere
        assert heard.queue.holds(one)
        assert heard.deliver() is None

    heard.then = waits
    heard.queue.add(one, [report(1), report(2)], 0)
    heard.deliver()
    assert [step for _, _, step in heard.steps] == [1, 2]
    assert not heard.queue.is_delivered_here


def test_one_thread_delivers_at_a_time():
    entered, go_on = threading.Event(), threading.Event()

    def slow(*_):
        entered.set()
        assert go_on.wait(60)

    heard, one = Heard(slow), job()
    heard.queue.add(one, [report(number) for number in range(1, 4)], 0)
    thread = threading.Thread(target=heard.deliver)
    thread.start()
    assert entered.wait(60)
    assert heard.queue.is_delivered_elsewhere
    assert heard.deliver() is None
    assert heard.steps == [(1, 1, 1)]
    go_on.set()
    thread.join(60)
    assert [step for _, _, step in heard.steps] == [1, 2, 3]
    assert not heard.queue.is_delivered_elsewhere
