"""Configs in .csv files: columns, words, separators, and what queue_eval has written itself."""

from __future__ import annotations

import csv
import json
import re
import warnings

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from queue_eval.cli.config_files import read_configs
from queue_eval.cli.export_tables import JOBS, Columns, write_csv, write_parquet
from queue_eval.driver.results import write_results
from queue_eval.errors import ConfigError
from queue_eval.model.job import Job
from queue_eval.model.states import State
from queue_eval.model.table_cells import safe_cell

ABSENT = object()


def column(tmp_path, *cells):
    """The values of a column of these cells beside one of numbers."""
    path = tmp_path / "c.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("n", "x"), *enumerate(cells)])
    return [config.get("x", ABSENT) for config in read_configs(path)]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["True", "False", "true"], [True, False, True]),
        (["1", "None", "3"], [1, None, 3]),
        (["None", "None"], [None, None]),
        (["True", "None"], [True, None]),
        ([".5", "1", "-2.", "+3"], [0.5, 1, -2.0, 3]),
        (["1234e5", "2"], [123_400_000.0, 2]),
        (["1234e5", "12ab"], ["1234e5", "12ab"]),
        (["1e400", "12ab"], ["1e400", "12ab"]),
        (["1", "", "3"], [1, ABSENT, 3]),
        (["a", "", "b"], ["a", "", "b"]),
        (["007", "010"], ["007", "010"]),
        (["a", "null"], ["a", None]),
        (['"1"', "a"], ["1", "a"]),
        (["[1]", '"a"', "2", "true", "null"], [[1], "a", 2, True, None]),
        (["NaN", "NaN"], ["NaN", "NaN"]),
    ],
)
def test_a_column_is_read_as_a_whole(tmp_path, cells, values):
    read = column(tmp_path, *cells)
    assert read == values
    assert list(map(type, read)) == list(map(type, values))


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["relu", "None"], r"'None' \(row 2 \(line 3\)\)"),
        (["False", "maybe"], r"'False' \(row 1"),
        (["0", "auto"], "'0'"),
        (["True", ".5"], "'True'"),
        (["1", "2", "n/a"], "'1'"),
        (["[]", "a"], r"'\[\]'"),
    ],
)
def test_values_that_are_read_as_text_are_told(tmp_path, cells, told):
    with pytest.warns(UserWarning, match=rf"column 'x': {told}.* is read as text"):
        assert column(tmp_path, *cells) == cells


@pytest.mark.parametrize(
    ("cells", "what"), [(["1e400", "1"], "inf"), (["1", "NaN"], "nan"), (["1", "-inf"], "-inf")]
)
def test_numbers_that_a_config_cannot_hold_are_refused(tmp_path, cells, what):
    with pytest.raises(ConfigError, match=rf'row . \(line .\): "x" is {what}'):
        column(tmp_path, *cells)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    rows = ['x{0}name', '1{0}"a,b;c"', '2{0}"d\te|f"']
    (tmp_path / "c.csv").write_text("\n".join(rows).format(separator))
    assert read_configs(tmp_path / "c.csv") == [{"x": 1, "name": "a,b;c"}, {"x": 2, "name": "d\te|f"}]


def test_other_characters_are_no_separators(tmp_path):
    (tmp_path / "c.csv").write_text("x;y,z\n1,2;3\n")
    assert read_configs(tmp_path / "c.csv") == [{"x;y": 1, "z": "2;3"}]
    (tmp_path / "c.csv").write_text("one|two\n1\n2\n")
    assert read_configs(tmp_path / "c.csv") == [{"one|two": 1}, {"one|two": 2}]
    (tmp_path / "c.csv").write_text("x;y\n1;2\n3\n")
    with pytest.raises(ConfigError, match="has 1 cells under 2 columns"):
        read_configs(tmp_path / "c.csv")


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("cells", [["0,5", "1,5"], ["", "0,5"], ["1", "1,5e-3", "2,5"]])
def test_a_decimal_comma_is_told(tmp_path, separator, cells):
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("y", "x"), *enumerate(cells)])
    with pytest.warns(UserWarning, match=r"'x': '\d,5.*' \(row .*\) is read as text; write numbers with"):
        assert read_configs(tmp_path / "c.csv") == [{"y": y, "x": x} for y, x in enumerate(cells)]


# What queue_eval has written

ODD = [
    {"a": "sqrt", "b": True, "c": "", "d": None, "objective": 1, "state": "x"},
    {"a": 0.5, "b": "True", "c": "x", "d": "null", "id_": [1, {"a": "b"}]},
    {"a": None, "c": "NaN", "d": "None", "id_": 2**70},
    {"a": "1", "b": 1e-7, "c": " 1", "d": ".5", "e": {"x": []}, "cause": "1e5"},
    {"c": '"q"', "d": "[1", "f": "a,b;c\td|e", "g": "two\nlines\r", "h": "007"},
]
TEXTS = st.sampled_from(
    ["", "1", "a", "True", "null", "None", "NaN", "inf", ".5", "1e400", "[1]", '"a"', " ", "é\u2028", "a\rb"]
) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
KEYS = st.sampled_from(["x", "y", "objective", "state", "worker", "config.z"])
CONFIGS = st.lists(st.dictionaries(KEYS, VALUES, min_size=1), min_size=1, max_size=4)


def in_results(folder, configs, **options):
    jobs = [Job(i, config, None) for i, config in enumerate(configs, 1)]
    for job in jobs:
        job.state, job.result = State.SUCCEEDED, 0.5
    write_results(jobs, None, folder, **options)
    return folder / "results.csv"


def in_an_export(folder, configs, name="e.csv", write=write_csv, **options):
    columns, lines, target = Columns(JOBS), folder / "lines", folder / name
    rest = dict.fromkeys(("state", "cause", "worker", "host", "source", "error"), "")
    rest |= dict.fromkeys(("submitted_at", "started_at", "finished_at", "run_s", "wait_s"), None)
    rest |= {"result": 0.5, "attempts": 1, "elapsed_sec": 1.0, "duration": 1.0}
    with lines.open("w") as file:
        for i, config in enumerate(configs, 1):
            line = {"id": i, "config": config} | rest
            columns.learn(line)
            file.write(json.dumps(line) + "\n")
    target.unlink(missing_ok=True)
    write(lines, target, columns, **options)
    return target


@pytest.mark.parametrize("written", [in_results, in_an_export])
def test_what_was_written_is_read_back(tmp_path, written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_configs(written(tmp_path, ODD)) == ODD


@pytest.mark.parametrize("written", [in_results, in_an_export])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(configs=[{"x": "\x1f0"}])  # Python strips this character, and reads a number
@given(configs=CONFIGS)
def test_whatever_was_written_is_read_back(tmp_path, written, configs):
    read = read_configs(written(tmp_path, configs))
    assert json.dumps(read, sort_keys=True) == json.dumps(configs, sort_keys=True)


@pytest.mark.parametrize("written", [in_results, in_an_export])
def test_a_long_text_is_read_back(tmp_path, written):
    """Longer than what the module csv reads by itself."""
    configs = [{"a": "x" * 200_000, "b": 1}]
    assert read_configs(written(tmp_path, configs)) == configs


def test_both_tables_have_the_same_cells(tmp_path):
    tables = []
    for path in (in_results(tmp_path, ODD), in_an_export(tmp_path, ODD)):
        with path.open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for key in ("a", "b", "c", "d", "e", "f", "g", "h", "id_", "config.state", "objective"):
        assert [row[key] for row in tables[0]] == [row[key] for row in tables[1]], key


FORMULAS = st.builds(
    lambda *parts: "".join(parts), st.text("a;\t\r\n, \"'"), st.sampled_from("=+-@\uff1d"), st.text("1A!(;")
)


@pytest.mark.parametrize("written", [in_results, in_an_export])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text='=HYPERLINK("http://x")', number=-1.5)
@example(text="a;=1", number=-1)
@example(text='a;"=1"', number=-1)
@example(text="\t=1", number=-1)
@given(text=FORMULAS | TEXTS, number=st.floats(allow_nan=False, allow_infinity=False))
def test_safe_cells_hold_no_formula(tmp_path, written, text, number):
    """However a spreadsheet separates the cells. Numbers stay numbers."""
    configs = [{"n": number, "k": text, f"={text}": [text], "x": {text: text}}, {"n": 2, "k": number}]
    path = written(tmp_path, configs, safe_cells=True)
    for separator in ",;\t":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter=separator))
        for row in rows:
            # Where commas separate nothing, a line may begin with a number.
            for cell in row if separator == "," else row[1:]:
                is_number = re.fullmatch(r"-?[0-9.]+(e[+-]?\d+)?", cell)
                assert is_number or not cell.strip(" ").startswith(tuple("=+-@\uff1d")), (separator, row)
    with path.open(newline="", encoding="utf-8") as file:
        assert [float(row["n"]) for row in csv.DictReader(file)] == [number, 2]


@pytest.mark.parametrize("written", [in_results, in_an_export])
def test_safe_cells_change_only_what_begins_a_formula(tmp_path, written):
    configs = [{"a": "=1+1", "b": "x=1", "c": -1.5, "d": [-1, "a"], "=e": "@x", "f": "-"}]
    with written(tmp_path, configs, safe_cells=True).open(newline="") as file:
        (row,) = csv.DictReader(file)
    shown = {key: row[key] for key in ("a", "b", "c", "d", "'=e", "f")}
    assert shown == {"a": "'=1+1", "b": "x=1", "c": "-1.5", "d": '[-1, "a"]', "'=e": "'@x", "f": "'-"}


@pytest.mark.parametrize("text", ["\ufeff=1", "\0=1", "a;\ufeff=1", "\ufeff \0+1"])
def test_what_a_spreadsheet_does_not_see_hides_no_formula(text):
    assert "'" in safe_cell(text)


def test_the_configs_of_exported_lines(tmp_path):
    line = {"id": 1, "config": {"x": [1]}, "state": "failed", "result": None, "submitted_at": None}
    (tmp_path / "e.jsonl").write_text(json.dumps(line) + "\n")
    assert read_configs(tmp_path / "e.jsonl") == [{"x": [1]}]


def test_integers_in_parquet_are_exact(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    configs = [{"a": 2**60 + 1, "b": 2**60 + 1, "c": 1, "d": 2**70}, {"a": 1, "b": 0.5, "c": 0.5, "d": 1}]
    frame = pd.read_parquet(in_an_export(tmp_path, configs, "e.parquet", write_parquet))
    assert list(frame["a"]) == [2**60 + 1, 1]
    assert list(frame["b"]) == [str(2**60 + 1), "0.5"]
    assert list(frame["c"]) == [1.0, 0.5]
    assert list(frame["d"]) == [str(2**70), "1"]
