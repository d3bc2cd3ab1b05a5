"""The options of a campaign have one list of names, which types and docs follow."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from queue_eval.driver.options import Keywords, Options

NAMES = [field.name for field in fields(Options)]
PAGE = Path(__file__).parents[3] / "docs" / "evaluator.md"


def documented() -> dict[str, str]:
    """The table of keywords: each with its default."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Keywords\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))


def test_type_checkers_know_every_option() -> None:
    assert [*Keywords.__annotations__] == NAMES


def test_the_docstring_tells_of_every_option() -> None:
    docstring = inspect.getdoc(Options) or ""  # from 3.13 on, Python strips the indentation by itself
    assert re.findall(r"^(\w+): ", docstring, re.MULTILINE) == NAMES


def test_the_docs_tell_of_every_option() -> None:
    assert documented().keys() == {"num_workers", "callbacks", *NAMES}


def test_the_docs_tell_the_defaults() -> None:
    told = {name: default.strip("`") for name, default in documented().items()}
    defaults = {name: getattr(Options(), name) for name in NAMES}
    numbers = {name: str(value) for name, value in defaults.items() if type(value) in (int, bool)}
    texts = {name: f'"{defaults[name]}"' for name in ("on_failure", "on_change", "queue", "values")}
    plain = (numbers | texts).items() - {("reuse", "False")}  # it depends on another one
    assert {name: told[name] for name, _ in plain} == dict(plain)


def test_the_defaults_are_what_is_chosen_when_nothing_is_given() -> None:
    assert Options.checked() == Options()
