"""The parts of the command line that need no server: durations, files of configs, targets, pace, output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from queue_eval.cli import SECTIONS, output, root
from queue_eval.cli.config_files import read_configs
from queue_eval.cli.options import DURATION
from queue_eval.cli.run import _default_name
from queue_eval.cli.target import find_target
from queue_eval.errors import ConfigError, FunctionError, UsageError
from queue_eval.foreign_text import printable
from queue_eval.model.durations import parse_duration
from queue_eval.views import formats
from queue_eval.views.pace import rate_per_s
from tests.support.cli import cli_here, complaint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400),
        ("2d", 172800),
        ("0", 0), ("1h 30m", 5400), ("2M", 120), ("1s500ms", 1.5),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-5", "5x", "m", "30m1h", "1e3", "inf", "nan", "1h30", "5 apples"])
def test_no_durations(text):
    assert parse_duration(text) is None
    with pytest.raises(click.BadParameter, match="90, 90s, 15m or 1h30m"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slots", "nonsense"], "'nonsense' is not valid; give a number from 1 on, or auto"),
        (["--slots", "0"], "'0' is not valid; give a number from 1 on, or auto"),
        (["--time-limit", "0"], "'0' is not valid; give a duration above 0, like 90s, 15m or 1h30m, or auto"),
        (["--time-limit", "soon"], "'soon' is not valid; give a duration above 0, like 90s"),
        (["--drain-timeout", "-1"], "'-1' is not a duration; write it like 90"),
    ],
)
def test_options_of_a_worker_that_are_refused(words, said):
    assert said in complaint(cli_here("worker", *words), 2)


def test_a_job_without_any_time_is_refused():
    line = complaint(cli_here("run", "m:f", "--configs", "c.jsonl", "--time-limit", "0s"), 2)
    assert "give a duration above 0" in line


def test_help_lines_and_debug_of_every_command():
    context = click.Context(root)
    for section in SECTIONS.values():
        for name, entry in section.items():
            command = root.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.help
            assert entry.help.endswith(".")
            assert any("--debug" in parameter.opts for parameter in command.params)
            assert root.get_command(context, name) is command
            assert sum("--debug" in parameter.opts for parameter in command.params) == 1


# Files of configs -----------------------------------------------------------------------------------------


def file_of(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_skips_blank_lines(tmp_path):
    path = file_of(tmp_path, "c.jsonl", '\ufeff{"x": 1}\n\n  \n{"x": [1, {"y": null}]}')
    assert read_configs(path) == [{"x": 1}, {"x": [1, {"y": None}]}]


def test_json_list(tmp_path):
    assert read_configs(file_of(tmp_path, "c.json", '[{"x": 1},\n {"x": 2}]')) == [{"x": 1}, {"x": 2}]


def test_csv_cells_are_json_where_they_parse(tmp_path):
    text = 'n,f,b,z,l,s,t,i\n1,2.5e-1,true,null,"[1, 2]",007,"two\nlines",NaN\n\n'
    text += '-3,0,false,,{},"""q""",a b,Infinity\n'
    assert read_configs(file_of(tmp_path, "c.csv", text)) == [
        {"n": 1, "f": 0.25, "b": True, "z": None, "l": [1, 2], "s": "007", "t": "two\nlines", "i": "NaN"},
        {"n": -3, "f": 0, "b": False, "z": "", "l": {}, "s": "q", "t": "a b", "i": "Infinity"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", '{"x": 1}\n\n{"x": }\n', "line 3: is not JSON"),
        ("c.jsonl", '{"x": 1}\n[1]\n', "line 2: is a list"),
        ("c.jsonl", '{"id": 1}\n', "line 1: .*id.* rename"),
        ("c.jsonl", '{"x": NaN}\n', 'line 1: "x" is nan'),
        ("c.jsonl", "\n \n", "holds no config"),
        ("c.jsonl", b"\xff\xfe{", "not text in UTF-8"),
        ("c.jsonl", "[" * 100_000, "line 1: "),
        ("c.json", '{"x": 1}', "is not a list"),
        ("c.json", '[{"x": 1}, 2]', "item 2: is an int"),
        ("c.json", '[\n{"x": 1},\n]', "line [23]: is not JSON"),  # Python 3.13 names the comma's line
        ("c.json", "[]", "holds no config"),
        ("c.csv", "", "holds no config"),
        ("c.csv", "a,b\n", "holds no config"),
        ("c.csv", "a,b\n1,2\n3\n", r"row 2 \(line 3\): has 1 cells under 2 columns"),
        ("c.csv", "a,a\n1,2\n", "'a' twice"),
        ("c.csv", "a,\n1,2\n", "column 2 has no name"),
        ("c.csv", "id\n1\n", "row 1"),
        ("c.csv", 'a\n"1', "line 2: is not CSV"),
        ("c.yaml", "x: 1", ".jsonl, .json or .csv"),
    ],
)
def test_files_that_are_wrong(tmp_path, name, content, message):
    path = file_of(tmp_path, name, content)
    with pytest.raises(UsageError, match=message) as caught:
        read_configs(path)
    assert str(path) in str(caught.value)
    if "line" in message or "row" in message:
        assert isinstance(caught.value, ConfigError)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_configs(tmp_path / "c.jsonl")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        read_configs(tmp_path / "d.json")


# Targets --------------------------------------------------------------------------------------------------

MODULE = """
import os as system
from json import dumps
raise RuntimeError("never imported by the command line")
if True:
    def run(config): ...
else:
    other, (deep, *rest) = 1, (2, 3)
try:
    async def later(config): ...
except ImportError:
    pass
class Model:
    def fit(self, config): ...
def maker():
    def hidden(config): ...
    global shown
    shown = hidden
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with a module, and a package beneath."""
    file_of(tmp_path, "qe_mod.py", MODULE)
    (tmp_path / "qe_pkg" / "sub").mkdir(parents=True)
    file_of(tmp_path, "qe_pkg/__init__.py", "raise RuntimeError('never imported')")
    file_of(tmp_path, "qe_pkg/sub/mod.py", "def run(config): ...")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "function", ["run", "other", "deep", "rest", "later", "Model.fit", "shown", "system", "dumps"]
)
def test_functions_that_are_defined(project, function):
    assert find_target(f"qe_mod:{function}").name == f"qe_mod:{function}"
    by_file = find_target(f"./qe_mod.py:{function}")
    assert (by_file.name, by_file.script) == (f"qe_mod:{function}", project / "qe_mod.py")
    assert "qe_mod" not in sys.modules


def test_modules_in_packages_are_found_without_importing_them(project):
    assert find_target("qe_pkg.sub.mod:run").name == "qe_pkg.sub.mod:run"
    assert "qe_pkg" not in sys.modules
    assert find_target("math:sqrt").script is None
    assert find_target("os.path:basename").script is None


@pytest.mark.parametrize(
    "line", ["from os import *", "def __getattr__(name): ...", "globals()['run'] = print"]
)
def test_modules_that_define_dynamically_are_trusted(project, line):
    file_of(project, "qe_dynamic.py", line)
    assert find_target("qe_dynamic:whatever").name == "qe_dynamic:whatever"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qe_mod:rnu", "defines no 'rnu'; did you mean 'run'"),
        ("qe_mod:hidden", "defines no 'hidden'"),
        ("qe_mod:fit", "defines no 'fit'"),
        ("qe_none:run", "no module 'qe_none'"),
        ("qe_pkg.sub.none:run", "no module 'qe_pkg.sub.none'"),
        ("qe_mod.none:run", "no module"),
        ("__main__:run", "no module"),
        ("qe_mod", "does not name a function"),
        ("qe_mod:", "does not name a function"),
        (":run", "does not name a function"),
        ("qe_mod:a b", "does not name a function"),
        ("qe_mod.py", "does not say which function"),
        ("qe_mod.py:", "does not name a function"),
        ("none.py:run", "no file 'none.py'"),
        ("my-search.py:run", "rename it"),
        ("json.py:run", "rename it"),
        ("broken.py:run", "line 2 is not valid Python"),
    ],
)
def test_functions_that_cannot_be(project, text, message):
    file_of(project, "my-search.py", "def run(config): ...")
    file_of(project, "json.py", "def run(config): ...")
    file_of(project, "broken.py", "x = 1\ndef run(:\n")
    with pytest.raises(FunctionError, match=message):
        find_target(text)


def test_default_name_is_of_function_and_file(project):
    one = find_target("qe_mod:run")
    name = _default_name(one, Path("c.jsonl"))
    assert name == _default_name(one, project / "c.jsonl")
    assert name.startswith("run-c-")
    assert (
        len(
            {
                name,
                _default_name(one, Path("d.jsonl")),
                _default_name(find_target("qe_mod:later"), Path("c.jsonl")),
            }
        )
        == 3
    )
    long = _default_name(find_target("qe_mod:run"), Path(f"{'ü' * 200}.jsonl"))
    assert len(long) <= 100
    assert long.isascii()


# Pace -----------------------------------------------------------------------------------------------------


def test_rate():
    assert rate_per_s([], 0, 1000) is None
    assert rate_per_s([2000], 0, None) == 0.5
    assert rate_per_s([1000, 2000, 3000], 0, None) == 1
    assert rate_per_s([1000, 2000, 3000], 0, 5000) == 0.5
    assert rate_per_s([1000, 1000], 1000, None) == 1000


def test_rate_forgets_what_was_before_a_long_break():
    night = 8 * 3600 * 1000
    times = [0, 100, 200, night, night + 1000, night + 2000, night + 3000]
    assert rate_per_s(times, 0, None) == 1


# Output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0, "0ms"), (0.35, "350ms"), (12.34, "12.3s"), (59.99, "1m00s"), (245, "4m05s"),
        (3599.9, "1h00m"), (9000, "2h30m"), (86399, "23h59m"), (86400, "1d00h"), (1e6, "11d13h"),
    ],
)  # fmt: skip
def test_durations_as_shown(seconds, text):
    assert formats.shown_duration(seconds) == text


def test_what_is_shown_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\tü\n") == "a\\x1b[2Jb\tü\n"
    assert formats.shorten("line\nof  two\x07", 60) == "line of two\\x07"
    assert formats.shorten("x" * 100, 10) == "x" * 9 + "…"
    assert formats.shown_value({"a": [1, 2]}) == '{"a":[1,2]}'


def test_json_documents_hold_no_control_characters(capsys):
    document = {"\x1b[2J": "\x7f\x9b\u202e\n\ud800"}
    output.print_json(document)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == document


def test_json_documents_are_json(capsys):
    output.print_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5]}
