"""What a worker says of attempts that begin and end: lines while they are few, else sums."""

from __future__ import annotations

import logging
import time

import pytest

from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome, Verdict
from tests.support.waiting import wait_until
from workers.attempt_log import MAX_LINES, AttemptLog


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "workers.attempt_log")

    def take() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return take


def settlement(job: int, outcome: Outcome = Outcome.OK, run_ms: float = 4800.0, body: bytes = b"1"):
    return Settlement(job, 1, outcome, run_ms, 0.0, "", body)


def settle(log: AttemptLog, *settlements: Settlement, verdict: Verdict = Verdict.RECORDED) -> None:
    log.settled("search", settlements, [verdict] * len(settlements))


def test_an_attempt_begins_and_ends(lines):
    log = AttemptLog(60.0)
    log.see([("search", (17, 1))])
    log.write()
    log.write()
    assert lines() == ["begins job 17 of search (attempt 1)"], "once"
    log.see([])
    settle(log, settlement(17))
    log.write()
    assert lines() == ["job 17 of search succeeded in 4.8s"]


def test_an_attempt_that_no_look_has_seen(lines):
    log = AttemptLog(60.0)
    settle(log, settlement(17, run_ms=200.0))
    log.write()
    assert lines() == ["begins job 17 of search (attempt 1)", "job 17 of search succeeded in 200ms"]


@pytest.mark.parametrize(
    ("outcome", "body", "verdict", "told"),
    [
        (Outcome.ERROR, b"Traceback ...\nValueError: no", Verdict.RECORDED, "failed in 4.8s: ValueError: no"),
        (Outcome.TIMEOUT, b"ran too long", Verdict.AGAIN, "failed in 4.8s: ran too long; it is tried again"),
        (Outcome.LOST, b"killed by SIGKILL", Verdict.RECORDED, "was lost after 4.8s: killed by SIGKILL"),
        (Outcome.STOPPED, b"1", Verdict.RECORDED, "succeeded in 4.8s, stopped early"),
        (Outcome.OK, b"1", Verdict.FINISHED, "succeeded in 4.8s; the job had finished before"),
        (Outcome.OK, b"1", Verdict.STALE,
         "succeeded in 4.8s; it counts no more: the job was taken from this worker before"),
        (Outcome.CANCELLED, b"", Verdict.FINISHED, "is stopped: it was cancelled, or has finished elsewhere"),
    ],
)  # fmt: skip
def test_every_end_has_its_words(lines, outcome, body, verdict, told):
    log = AttemptLog(60.0)
    settle(log, settlement(17, outcome, body=body), verdict=verdict)
    log.write()
    assert lines()[-1] == f"job 17 of search {told}"


def test_what_was_dropped_counts_only_if_it_had_begun(lines):
    log = AttemptLog(60.0)
    log.see([("search", (17, 1))])
    log.write()
    log.dropped("search", [(17, 1), (18, 1)])
    log.write()
    assert lines()[1:] == ["job 17 of search is stopped: it was cancelled, or has finished elsewhere"]


def test_many_are_summed_up_with_one_failure(lines):
    log = AttemptLog(0.05)
    many = [settlement(job) for job in range(1, 511)]
    failed = settlement(511, Outcome.ERROR, body=b"ValueError: bad lr")
    settle(log, *many, failed, settlement(512, Outcome.LOST))
    log.see([("search", (513, 1))])
    log.write()
    log.write(is_last=True)
    (told,) = lines()
    assert told == (
        "begun 513, succeeded 510, failed 1, lost 1 in the last 0.05 s, running 1; "
        "job 511 of search failed in 4.8s: ValueError: bad lr"
    )


def test_lines_come_again_after_a_window_of_few(lines):
    log = AttemptLog(0.05)
    settle(log, *(settlement(job) for job in range(1, 100)))
    wait_until(lambda: (log.write(), len(lines()))[1] == 1)
    settle(log, settlement(100))
    log.write()
    assert lines()[-1] == "job 100 of search succeeded in 4.8s"


def test_a_window_has_a_bounded_number_of_lines(lines):
    log = AttemptLog(60.0)
    log.write()
    for job in range(1, 200):
        settle(log, settlement(job))
        log.write()
    log.write(is_last=True)
    told = lines()
    assert len(told) == MAX_LINES + 1
    assert told[-1].startswith(f"begun {199 - MAX_LINES // 2}, succeeded {199 - MAX_LINES // 2} in the last")


def test_a_reader_that_stands_still_holds_nobody_up(lines):
    is_open = [False]
    log = AttemptLog(0.01, lambda: is_open[0])
    for job in range(1, 1000):
        settle(log, settlement(job))
        log.write()
    assert lines() == []
    is_open[0] = True
    log.write(is_last=True)
    (told,) = lines()
    assert told.startswith("begun 999, succeeded 999")


def test_a_batch_costs_microseconds(lines):
    log = AttemptLog(60.0)
    batch, verdicts = [settlement(job) for job in range(512)], [Verdict.RECORDED] * 512
    fastest = min(_seconds(log, batch, verdicts) for _ in range(50))
    assert fastest / 512 < 2e-6


def _seconds(log: AttemptLog, batch: list[Settlement], verdicts: list[Verdict]) -> float:
    began_at = time.perf_counter()
    log.settled("search", batch, verdicts)
    return time.perf_counter() - began_at
