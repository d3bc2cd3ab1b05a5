from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.driver.ledger import Ledger, Origin
from queue_eval.model.job import Job
from queue_eval.model.moves import Opened
from queue_eval.model.states import State


def ledger(last_id=5, finished=2, tail="1000-0", opened_ms=1100):
    return Ledger(
        Opened(
            created=False, uid="u", created_ms=500, opened_ms=opened_ms, last_id=last_id, finished=finished,
            tail=tail, function="f", method="thread", source="", options="{}", retried=0,
        )
    )  # fmt: skip


def entry(id_, at):
    return ResultEntry(at, id_, State.SUCCEEDED, 1, 1.0, int(at.split("-")[0]), "w", "", "", b"1")


def job(id_):
    return Job(id_, {}, None)


def test_adopted_jobs_count_until_their_outcome_or_their_joining():
    book = ledger()
    assert (book.adopted, book.outstanding) == (3, 3)
    book.add(job(4), None, None, job_was_retried=False)
    assert (book.adopted, book.outstanding) == (2, 3)
    assert not book.is_candidate(4)
    assert book.is_candidate(3)
    assert not book.is_candidate(6)
    book.mark_finished(job(3))
    book.adopted_resolved.add(3)
    assert (book.adopted, book.outstanding) == (1, 3)
    assert not book.is_candidate(3)


def test_joining_what_had_finished_before_leaves_the_adopted_ones():
    book = ledger()
    book.add(job(1), "900-0", None, job_was_retried=False)
    assert (book.adopted, book.outstanding) == (3, 4)
    book.add(job(3), "1000-1", None, job_was_retried=False)
    assert (book.adopted, book.outstanding) == (2, 4)


@pytest.mark.parametrize(
    ("submitted_ms", "at", "any_retried", "is_adopted"),
    [
        (1000, "1200-0", True, True),
        (5000, "1200-0", False, True),  # nothing was retried: the clock was set back
        (1150, "1200-0", True, False),  # retried after the opening, and finished then
        (1300, "1200-0", True, True),  # finished, and retried only then
    ],
)
def test_whether_an_outcome_is_of_an_adopted_job(submitted_ms, at, any_retried, is_adopted):
    origin = Origin(submitted_ms, b"{}")
    assert ledger().is_adopted(entry(3, at), origin, any_retried=any_retried) is is_adopted


def test_outcomes_from_before_a_joined_retry_are_out_of_date():
    book = ledger()
    book.add(job(1), None, "1500-3", job_was_retried=True)
    assert book.waiting_job_of(entry(1, "1500-3")) is None
    assert book.waiting_job_of(entry(1, "1500-4")) is book.waiting[1]


def test_an_outcome_read_while_its_submission_was_on_its_way():
    book = ledger()
    book.seen_during_submit[6] = "1200-0"
    book.add(job(6), None, None, job_was_retried=False)
    assert book.joined == {6: "1200-0"}
    book.seen_during_submit[1] = "1200-1"
    book.add(job(1), None, "1200-1", job_was_retried=True)
    assert 1 not in book.joined


def test_a_job_is_handed_over_once_and_its_callbacks_called_once():
    book = ledger(0, 0)
    one = job(1)
    book.add(one, None, None, job_was_retried=False)
    book.mark_finished(one)
    assert book.mark_gathered(one)
    assert not book.mark_gathered(one)
    assert book.take_from_ready([one]) == [one]
    assert book.take_from_ready([one]) == []
    assert not book.mark_gathered(one)
    assert book.outstanding == 0


def test_an_awaited_job_is_not_ready_unless_its_hook_says_that_nobody_awaits_it():
    book = ledger(0, 0)
    for id_, awaited in ((1, True), (2, False)):
        book.completion_hooks[id_] = lambda _, awaited=awaited: awaited
        book.add(job(id_), None, None, job_was_retried=False)
        book.mark_finished(book.waiting[id_])
    assert (list(book.ready), list(book.gathered_jobs)) == ([2], [1])


@given(st.permutations(range(1, 9)), st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_jobs_that_are_numbered_again_do_not_take_the_places_of_each_other(ids, are_over, keep):
    """One after the other, whatever ids they are given, also those that others of them still have."""
    book = ledger(last_id=0, finished=0)
    book.keep = keep
    jobs = [job(id_) for id_ in range(1, 9)]
    for one, is_over in zip(jobs, are_over, strict=True):
        book.add(one, None, None, job_was_retried=False)
        if is_over:
            book.mark_finished(one)
    gathered = [one for one, is_over in zip(jobs, are_over, strict=True) if is_over][::2]
    for one in gathered:
        book.mark_gathered(one)
    book.take_from_ready(gathered)
    book.being_resubmitted = {one.id: one for one in jobs}
    for one, id_ in zip(jobs, ids, strict=True):
        book.renumber(one, id_)
    assert [one.id for one in jobs] == [one.config["id"] for one in jobs] == ids
    known = [one for one in jobs if keep or one not in gathered]
    assert book.tracked == {one.id: one for one in known}
    assert book.waiting.keys() | book.ready.keys() | book.gathered_jobs.keys() == {one.id for one in known}
    places = (book.waiting, book.ready, book.gathered_jobs)
    assert all(place[id_].id == id_ for place in places for id_ in place)
    assert book.gathered_jobs == {one.id: one for one in gathered if keep}
    assert {one.id for one in gathered} == {id_ for id_ in ids if id_ in book.gathered_ids}
