"""Curves, tables and headlines as text: they fit their width whatever they hold, and are no markup."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from queue_eval.model.states import State
from queue_eval.top.headline import bar, headline, state_of
from queue_eval.top.rows import Column, Row, drawn, fit
from queue_eval.top.sparkline import sparkline

numbers = st.floats()


@given(st.lists(numbers, max_size=300), st.integers(0, 60))
def test_a_sparkline_has_a_character_for_each_value_that_fits(values, width):
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set("▁▂▃▄▅▆▇█·")


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([3, 3], 8) == "▅▅"
    assert sparkline([1, math.nan, 2, math.inf], 8) == "▁·█·"
    assert sparkline([-1.7e308, 1.7e308], 8) == "▁█"


COLUMNS = (
    Column("ID", is_right=True), Column("NAME", least=6, most=20),
    Column("CURVE", least=5, most=30, grows=True), Column("MORE", least=8, grows=True),
)  # fmt: skip
texts = st.text(max_size=40)


@given(st.lists(st.tuples(texts, texts, texts), max_size=5), st.integers(1, 200))
def test_lines_have_the_width_that_there_is(cells, width):
    rows = [Row(one, (one, Text(two), lambda w: "x" * w, three)) for one, two, three in cells]
    widths = fit(COLUMNS, rows, width)
    for line in (drawn(COLUMNS, widths, row) for row in [None, *rows]):
        assert line.cell_len <= width
        assert line.plain.isprintable()
    if width >= 29:
        assert all(widths)
        assert sum(widths) + 6 == width


def test_markup_is_text():
    row = Row("1", ("[bold]x[/]", Text("[red]"), "", "\x1b]0;t\x07"))
    line = drawn(COLUMNS, [12, 6, 5, 20], row)
    assert line.plain.startswith("  [bold]x[/]  [red]")
    assert r"\x1b]0;t\x07" in line.plain


counts = st.fixed_dictionaries({state.value: st.integers(0, 10_000) for state in State})


def document(counts, **more):
    return {
        "campaign": "c" * 30, "function": "package.module:function", "method": "process", "paused": False,
        "planned": sum(counts.values()), "counts": counts, "rate_per_s": 0.01, "time_left_s": 3e5,
        "time_left_is_guess": True, "read_share": 0.5, "reasons": [], "failures": [], "workers": [],
        "best": {"key": "loss", "value": 1.25, "id": 7, "config": {"lr": 0.1}},
    } | more  # fmt: skip


@given(counts, st.integers(20, 200), st.integers(0, 10**6), st.integers(1, 5))
def test_headlines_fit(counts, width, to_come, groups):
    failures = [{"line": "ValueError: " + "x" * 90, "count": 12} for _ in range(4)]
    reasons = [{"sentence": "2 jobs wait, and nobody serves them " * 3, "advice": "start a worker"}]
    shown = document(counts, failures=failures, reasons=reasons, planned=sum(counts.values()) + to_come)
    for line in headline(shown, width, groups=groups):
        assert line.cell_len <= width


@given(counts, st.integers(10, 150))
def test_the_bar_shows_each_state_that_has_jobs(counts, width):
    line = bar(counts, sum(counts.values()), width)
    assert line.cell_len == width
    for state, letter in ((State.SUCCEEDED, "█"), (State.RUNNING, "▒")):
        assert (letter in line.plain) == (counts[state.value] > 0)


def test_the_state_is_told_in_words():
    nothing = {state.value: 0 for state in State}
    assert state_of(document(nothing))[0] == "no jobs yet"
    assert state_of(document(nothing | {"succeeded": 3}))[0] == "finished"
    done = document(nothing | {"succeeded": 3}, planned=10)
    assert state_of(done)[0] == "waiting: its driver has 7 more jobs to submit"
    assert state_of(document(nothing | {"running": 3}))[0] == "running"
    assert state_of(document(nothing | {"running": 3}, paused=True))[0].startswith("paused, 3 still running")
    assert state_of(document(nothing | {"pending": 3}))[0] == "waiting for a free slot"
    assert state_of(document(nothing | {"pending": 3}, reasons=[{"sentence": "no"}]))[0] == "waiting"


def test_workers_are_summed_up():
    workers = [
        {"name": "a", "host": "h", "state": "running", "slots": 4, "running": 9, "busy": None, "load": 0.5,
         "memory_used": 1, "memory_total": 4, "gpus": [{"util": 90.0}, {"util": None}]},
        {"name": "b", "host": "i", "state": "running", "slots": 2, "running": 0, "busy": 1},
        {"name": "c", "host": "i", "state": "lost", "slots": None, "running": 3, "busy": None},
    ]  # fmt: skip
    lines = headline(document({state.value: 1 for state in State}, workers=workers), 200)
    assert lines[-1].plain == (
        "workers 2 on 2 hosts · 5 of 6 slots busy · load 50% · memory 25% · GPUs 90% · 1 lost"
    )
