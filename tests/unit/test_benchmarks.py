"""The benchmark program: what it is told, and how it judges what it has measured."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from benchmarks.__main__ import SCENARIOS, main
from benchmarks.findings import Found, Row, percentile, ratio
from benchmarks.goals import GOALS
from benchmarks.pairs import interval
from benchmarks.peers import PEERS
from benchmarks.report import as_text
from benchmarks.spans import Span, gaps_ms, spans_of, use
from queue_eval import Job

MACHINE = {
    "cores": 2, "processor": "", "memory_gb": 1, "system": "", "python": "", "server": "", "queue_eval": "",
    "at": "", "load_average": [0.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--jobs", "0"], "0 is not a positive number"),
        (["--jobs", "many"], "many is not a positive number"),
        (["--peer", "nobody"], "invalid choice: 'nobody'"),
        (["--python", "/no/such/python"], "/no/such/python is not a program"),
        (["--show", "/no/such.json"], "/no/such.json is not a file"),
    ],
)
def test_a_bad_argument_is_one_error(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.__main__.can_draw", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["--picture", "x.png"])
    assert ended.value.code == 2
    assert "pip install '.[bench]'" in capsys.readouterr().err


def test_a_file_that_is_no_document_is_one_error(tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"machine": 1}')
    with pytest.raises(SystemExit, match=r"other\.json does not hold what --json gives"):
        main(["--show", str(file)])


def test_goals_are_of_scenarios_and_peers_that_there_are():
    assert {scenario for scenario, _ in GOALS} <= set(SCENARIOS)
    judged = {row.removeprefix("to ") for scenario, row in GOALS if scenario == "peers"}
    # Nobody sees a result of a chunk before all of it is done: shown, but no rival.
    assert judged == set(PEERS) - {"pool-map"}
    for name in judged:
        assert GOALS["peers", f"to {name}"].least == (10.0 if PEERS[name].durable else 1.0)


def test_a_goal_is_shown_with_met_or_not_met():
    found = Found(
        [Row("thread", "thread", 14_999.0, "/s"), Row("process", "process", 10_000.0, "/s")],
        missing=["a peer: skipped"],
    )
    scenario = json.loads(json.dumps(found.as_json("throughput", "a title")))
    assert [row["met"] for row in scenario["rows"]] == [False, True]
    text = as_text({"machine": MACHINE, "scenarios": {"throughput": scenario}})
    assert "14,999 /s  goal at least 15,000: NOT MET" in text
    assert "10,000 /s  goal at least 10,000: met" in text
    assert "a peer: skipped" in text


def test_use_of_slots_counts_what_stands_free_while_jobs_wait():
    # Two slots; one stands free from 3 to 4, of 1 to 5. Before 1 they warm up; the last start is at 5.
    spans = [Span("a", 0.0, 3.0), Span("b", 0.5, 5.0), Span("a", 4.0, 5.0), Span("a", 5.0, 9.0)]
    assert use(spans, slots=2, warm_s=1.0) == pytest.approx(100 * 7 / 8)
    with pytest.raises(RuntimeError, match="no steady state"):
        use(spans, slots=2, warm_s=5.0)


def test_gaps_are_between_neighbours_on_a_slot():
    spans = [Span("a", 0.0, 1.0), Span("b", 0.5, 2.0), Span("a", 1.25, 3.0), Span("b", 2.5, 3.0)]
    assert sorted(gaps_ms(spans)) == pytest.approx([250.0, 500.0])


def test_jobs_that_are_missing_or_wrong_are_no_measurement():
    right, wrong = Job(1, {"x": 1}, None), Job(2, {"x": 2}, None)
    for job in (right, wrong):
        job.state, job.result = "succeeded", [1, "a", 0.0, 1.0]
    assert spans_of([right], 1) == [Span("a", 0.0, 1.0)]
    with pytest.raises(RuntimeError, match="1 of 2 jobs came back with right results"):
        spans_of([right, wrong], 2)


def test_ratios_are_taken_within_rounds():
    assert ratio([10.0, 100.0, 30.0], [10.0, 50.0, 10.0]) == 2.0
    assert percentile([float(value) for value in range(100, 0, -1)], 0.99) == 100.0


def test_the_interval_of_pairs_is_students():
    ratios = [0.9, 1.0, 1.0, 1.0, 1 / 0.9]
    mean, least, most = interval(ratios)
    error = statistics.stdev(map(math.log, ratios)) / math.sqrt(5)
    assert mean == pytest.approx(1.0)
    assert math.log(most) == pytest.approx(2.776 * error, rel=0.01)
    assert math.log(least) == pytest.approx(-2.776 * error, rel=0.01)
