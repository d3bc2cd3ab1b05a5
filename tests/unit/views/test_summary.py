"""The summary of all outcomes: whatever the order, it says what counting them one by one says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.errors import DamagedError
from queue_eval.model.states import State
from queue_eval.views import summary as module
from queue_eval.views.course import MOST_STRETCHES
from queue_eval.views.failure_groups import MOST_GROUPS, OTHERS, last_line, masked
from queue_eval.views.numbers import MOST_KEYS, main_key, numbers_of
from queue_eval.views.summary import MOST_BEST, Summary


def entry(number: int, job: int, state: State, body: bytes, *, run_ms: float | None = 5.0) -> ResultEntry:
    cause = "error" if state is State.FAILED else ""
    return ResultEntry(
        f"{1000 + number}-0", job, state, 1, run_ms, 1000 + number, "w", "source", cause, body
    )


def entries(*outcomes: tuple[int, State, bytes]) -> list[ResultEntry]:
    return [entry(number, *outcome) for number, outcome in enumerate(outcomes)]


def folded(*outcomes: tuple[int, State, bytes]) -> Summary:
    summary = Summary()
    for one in entries(*outcomes):
        summary.fold(one)
    return summary


SUCCESS, FAILED, CANCELLED = State.SUCCEEDED, State.FAILED, State.CANCELLED
OUTCOMES = st.lists(
    st.tuples(
        st.integers(1, 30),
        st.sampled_from([SUCCESS, FAILED, CANCELLED]),
        st.sampled_from([b"1.5", b"-2", b'{"a": 3, "b": {"c": 4.5}}', b"ValueError: 7", b'"text"']),
    )
)


@given(OUTCOMES)
def test_a_job_counts_as_its_last_outcome_says(outcomes):
    summary = folded(*outcomes)
    last = {job: (state, body) for job, state, body in outcomes}
    assert summary.counts == dict.fromkeys(summary.counts, 0) | Counter(state for state, _ in last.values())
    groups = Counter(masked(last_line(body)) for state, body in last.values() if state is FAILED)
    assert {masked(group.line): group.count for group in summary.groups.ranked()} == groups
    assert sum(stretch.count for stretch in summary.course.stretches) == len(outcomes)
    ran_again = len(outcomes) > len(last)
    if not ran_again:
        values = {job: numbers_of(body) for job, (state, body) in last.items() if state is SUCCESS}
        for key in ("", "a", "b.c"):
            ranked = sorted((-v[key], job) for job, v in values.items() if key in v)
            assert summary.best(key, 100) == [(job, -value) for value, job in ranked]
            ranked = sorted((v[key], job) for job, v in values.items() if key in v)
            assert summary.best(key, 2, "min") == [(job, value) for value, job in ranked[:2]]


@given(OUTCOMES, st.integers(0, 30))
def test_one_that_was_kept_goes_on_as_if_nothing_had_happened(outcomes, cut):
    whole, first = Summary(), Summary()
    for number, one in enumerate(entries(*outcomes)):
        whole.fold(one)
        if number == cut:
            first = Summary.from_bytes(first.to_bytes())
        first.fold(one)
    assert Summary.from_bytes(first.to_bytes()).to_bytes() == whole.to_bytes()
    assert first.cursor == whole.cursor


@pytest.mark.parametrize("change", [lambda b: b[:-5], lambda b: b"x" + b, lambda b: b"", lambda b: b[::-1]])
def test_damaged_ones_are_refused(change):
    kept = folded((1, SUCCESS, b"1"), (2, FAILED, b"no")).to_bytes()
    with pytest.raises(DamagedError, match="cannot be read"):
        Summary.from_bytes(change(kept))


def test_one_of_another_version_is_refused(monkeypatch):
    kept = folded((1, SUCCESS, b"1")).to_bytes()
    monkeypatch.setattr(module, "_VERSION", 2)
    with pytest.raises(DamagedError, match="another version"):
        Summary.from_bytes(kept)


def test_a_success_that_ran_again_is_told_of():
    assert not folded((1, FAILED, b"no"), (1, SUCCESS, b"1")).has_unranked
    assert folded((1, SUCCESS, b"9"), (1, SUCCESS, b"1")).has_unranked


def test_what_names_no_job_is_passed_over():
    summary = folded((0, SUCCESS, b"1"), (2**40, SUCCESS, b"1"))
    assert (summary.cursor, sum(summary.counts.values())) == ("1001-0", 0)


def test_it_stays_bounded_however_many_jobs_there_are():
    summary = Summary()
    count = 5 * MOST_STRETCHES
    for number in range(count):
        state, body = SUCCESS, b'{"x": %d, "y": %d}' % (number, -number)
        if number % 3 == 0:
            state, body = FAILED, b"Error: kind %c" % (65 + number % 26)
        summary.fold(entry(number, number + 1, state, body))
    assert len(summary.course.stretches) <= MOST_STRETCHES
    assert sum(stretch.count for stretch in summary.course.stretches) == count
    assert sum(stretch.failed for stretch in summary.course.stretches) == (count + 2) // 3
    assert max(e.high for e in summary.course.values["x"] if e) == count - 1
    assert min(e.low for e in summary.course.values["y"] if e) == 1 - count
    assert summary.best("x", 1000) == [(n + 1, n) for n in range(count - 1, 0, -1) if n % 3][:MOST_BEST]
    assert len(summary.sample()) == module.MOST_SAMPLED
    assert len(summary.times_ms) == module.MOST_TIMES
    assert len(summary.to_bytes()) < 300_000


def test_many_kinds_of_failures_end_in_one_group():
    words = [f"Error {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MOST_GROUPS + 50)]
    summary = folded(*((n + 1, FAILED, word.encode()) for n, word in enumerate(words)))
    ranked = summary.groups.ranked()
    assert (ranked[0].title, ranked[0].count, len(ranked)) == (OTHERS, 50, MOST_GROUPS + 1)
    again = Summary.from_bytes(summary.to_bytes())
    again.fold(entry(999, 999, FAILED, b"Error yy"))
    assert again.groups.ranked()[0].count == 51


@pytest.mark.parametrize(
    ("errors", "title"),
    [
        ([b"Traceback ...\n  File\nValueError: lr 0.5 is odd"], "ValueError: lr 0.5 is odd"),
        ([b"ValueError: lr 0.5 is odd\n\n", b"ValueError: lr 7e-3 is odd"], "ValueError: lr # is odd"),
        ([b"<object at 0x7f12>", b"<object at 0x7fab>"], "<object at #>"),
        ([b""], "error"),
        ([b"\xff"], "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_failures_are_grouped_by_their_last_line(errors, title):
    (group,) = folded(*((n + 1, FAILED, error) for n, error in enumerate(errors))).groups.ranked()
    assert (group.title, group.count) == (title, len(errors))


def test_a_result_that_is_nan_counts_as_failed():
    summary = folded((1, SUCCESS, b"NaN"))
    assert (summary.counts[FAILED], summary.groups.ranked()[0].cause) == (1, "nan")


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        (b"1.5", {"": 1.5}),
        (b"3", {"": 3.0}),
        (b"Infinity", {}),
        (b"true", {}),
        (b"null", {}),
        (b'"1.5"', {}),
        (b"[1]", {}),
        (b"1" + b"0" * 400, {}),
        (b'{"a": 1, "b": true, "c": NaN, "d": "1", "e": {"f": 2, "g": {"h": 3}}}', {"a": 1.0, "e.f": 2.0}),
        (b'{"a": ', {}),
    ],
)
def test_the_numbers_in_a_result(body, numbers):
    assert numbers_of(body) == numbers


def test_the_main_key():
    assert main_key([]) is None
    assert main_key(["loss", "objective"]) == "objective"
    assert main_key(["loss", ""]) == ""
    assert main_key(["loss", "accuracy"]) == "loss"


def test_further_keys_than_the_first_are_left_out():
    result = b"{%s}" % b", ".join(b'"k%d": %d' % (n, n) for n in range(MOST_KEYS + 3))
    summary = folded((1, SUCCESS, result))
    assert summary.keys == [f"k{n}" for n in range(MOST_KEYS)]
    assert summary.course.values.keys() == set(summary.keys)
