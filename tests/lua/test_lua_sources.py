"""How the scripts are composed of small files, and that none sends what it does not use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lupa.lua51 import LuaRuntime

from queue_eval import failpoints
from queue_eval.campaign import keys
from queue_eval.campaign import scripts as lua

FOLDER = Path(lua.__file__).parent
INCLUDES = {file.stem: file.read_text() for file in (FOLDER / "include").glob("*.lua")}
SCRIPTS = {name: (FOLDER / f"{name}.lua").read_text() for name in failpoints.SCRIPTS}


def code_of(text: str) -> str:
    """Without comments and strings."""
    return re.sub(r"--[^\n]*|'[^'\n]*'", "", text)


def defined_in(code: str, indent: str = "") -> list[str]:
    """The local names that are declared behind this much white space."""
    found = re.findall(rf"^{indent}local (?:function )?(\w+(?:,\s+\w+)*)", code, re.MULTILINE)
    return [name for names in found for name in re.split(r",\s+", names)]


def uses_of(code: str) -> list[str]:
    return re.findall(r"(?<![.\w])[A-Za-z_]\w*", code)


def included_by(text: str) -> list[str]:
    return [name for line in re.findall(r"^-- include (.*)$", text, re.MULTILINE) for name in line.split()]


HOMES = {name: include for include, text in INCLUDES.items() for name in defined_in(code_of(text))}
"""Where each name is defined that files include."""

COLUMNS = defined_in(code_of(INCLUDES["columns"]))
"""They are unpacked by position, so all are declared wherever one is used."""


def test_each_name_is_defined_in_one_include():
    assert len(HOMES) == sum(len(defined_in(code_of(text))) for text in INCLUDES.values())


def test_the_columns_are_those_of_the_keys():
    assert [name.upper() for name in keys.COLUMNS] == COLUMNS
    assert re.findall(r"extra_key\('(\w+)'\)", INCLUDES["extra_keys"]) == [*keys.EXTRA_COLUMNS]


@pytest.mark.parametrize("text", [*SCRIPTS.values(), *INCLUDES.values()], ids=[*SCRIPTS, *INCLUDES])
def test_each_file_includes_just_what_it_uses(text):
    code = code_of(text)
    own = defined_in(code)
    assert included_by(text) == sorted(
        {HOMES[name] for name in uses_of(code) if name in HOMES and name not in own}
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_sends_only_what_it_uses(name):
    code = code_of(lua.script(name).source)
    uses = uses_of(code)
    declared = defined_in(code, indent=" *")
    unused = {local for local in declared if uses.count(local) == declared.count(local)}
    assert unused - {"_", *COLUMNS} == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_compiles_and_keeps_the_limits_of_lua(name):
    """Lua itself refuses a function of more than 200 local variables or 60 upvalues."""
    LuaRuntime().compile(lua.script(name).source)
    assert len(defined_in(code_of(lua.script(name).source))) < 200


def test_includes_come_once_and_behind_what_they_use(tmp_path):
    (tmp_path / "include").mkdir()
    for file, text in {
        "move.lua": "-- include b a\nreturn b\n", "include/a.lua": "local a = 1\n",
        "include/b.lua": "-- include a c\nlocal b = a + c\n", "include/c.lua": "-- include a\nlocal c = a\n",
    }.items():  # fmt: skip
        (tmp_path / file).write_text(text)
    assert lua.compose(tmp_path, "move") == "local a = 1\nlocal c = a\nlocal b = a + c\nreturn b\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- include b\n", "move.lua: the include 'b' includes itself"),
        ("-- include c\n", "move.lua: there is no include 'c'"),
    ],
)
def test_a_circle_and_an_unknown_include_are_clear_errors(tmp_path, text, complaint):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "a.lua").write_text("-- include b\n")
    (tmp_path / "include" / "b.lua").write_text("-- include a\n")
    (tmp_path / "move.lua").write_text(text)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        lua.compose(tmp_path, "move")
