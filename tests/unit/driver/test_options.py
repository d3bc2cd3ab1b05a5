"""The options of a campaign have one list of names, which types and docs follow."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from queue_eval.driver.options import Keywords, Options
from queue_eval.errors import UsageError

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


@pytest.mark.parametrize(
    ("given", "size"),
    [(None, None), (1000, 1000), ("10G", 10**10), ("1.5 GiB", 3 * 2**29), ("500MB", 5 * 10**8)],
)
def test_the_space_for_checkpoints(given: object, size: int | None) -> None:
    assert Options.checked(checkpoint_space=given).checkpoint_space == size


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "", "10", "lots", "0GB", [1]])
def test_no_space_for_checkpoints(given: object) -> None:
    with pytest.raises(UsageError, match="checkpoint_space is"):
        Options.checked(checkpoint_space=given)


def test_the_folder_of_checkpoints_is_kept_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Options.checked(checkpoints="saved").checkpoints == tmp_path / "saved"
    assert Options.checked(checkpoints=tmp_path).checkpoints == tmp_path
    assert Options.checked(checkpoints="~/saved").checkpoints == tmp_path / "me" / "saved"
    assert Options.checked(checkpoints=None).checkpoints is None


@pytest.mark.parametrize("given", [3, "", ["a"], "~nobody-of-this-name/x"])
def test_no_folder_of_checkpoints(given: object) -> None:
    with pytest.raises(UsageError, match="checkpoints is"):
        Options.checked(checkpoints=given)


@pytest.mark.parametrize("name", ["keep_checkpoints", "keep_folders"])
def test_switches(name: str) -> None:
    assert getattr(Options.checked(**{name: True}), name) is True
    assert getattr(Options.checked(**{name: None}), name) is False
    with pytest.raises(UsageError, match=f"{name} is 1; give True or False"):
        Options.checked(**{name: 1})
