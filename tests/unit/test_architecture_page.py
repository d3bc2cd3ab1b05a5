"""docs/architecture.md against the files: modules, folders, the path of one job, threads of a worker."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
TOP_FOLDERS = ("docs", "queue_eval", "tests", "workers")


def section(heading: str) -> str:
    """What stands between a heading of third level and the next heading."""
    found = re.search(rf"^### {re.escape(heading)}.*?\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def tables() -> dict[str, list[str]]:
    """Package -> the modules that its table lists."""
    part = PAGE.partition("\n## Modules\n")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for block in part.split("\n### ")[1:]:
        heading = re.match(r"`([\w.]+)`", block)
        assert heading is not None, block.splitlines()[0]
        assert heading[1] not in found
        found[heading[1]] = re.findall(r"^\| `(\w+)` \| \S", block, re.MULTILINE)
    return found


def has_code(file: Path) -> bool:
    """Whether a module holds more than its docstring."""
    return any(not isinstance(statement, ast.Expr) for statement in ast.parse(file.read_text()).body)


def modules_of(folder: Path) -> Iterator[str]:
    for file in folder.glob("*.py"):
        if file.stem != "__init__" or has_code(file):
            yield file.stem


def packages() -> dict[str, Path]:
    """Each package that has Python modules of its own beside `__init__`, by its dotted name."""
    folders = [file.parent for top in ("queue_eval", "workers") for file in (ROOT / top).rglob("__init__.py")]
    return {
        ".".join(folder.relative_to(ROOT).parts): folder
        for folder in folders
        if any(file.stem != "__init__" for file in folder.glob("*.py"))
    }


def test_each_package_has_a_table():
    assert sorted(tables()) == sorted(packages())


@pytest.mark.parametrize("package", sorted(packages()))
def test_each_module_is_listed_once_and_nothing_else(package):
    folder = packages()[package]
    without_modules = {
        inner.parent.name for inner in folder.glob("*/__init__.py") if inner.parent not in packages().values()
    }
    assert sorted(tables()[package]) == sorted([*modules_of(folder), *without_modules])


def test_the_files_on_the_path_of_one_job_are_there():
    files = re.findall(r"`([\w/]+\.(?:py|lua))`", section("The path of one job"))
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_every_file_that_the_page_names_is_there():
    files = re.findall(r"`((?:queue_eval|workers)/[\w/]+\.(?:py|lua))`", PAGE)
    assert [file for file in files if not (ROOT / file).is_file()] == []


def printed_folders() -> list[str]:
    tree = re.search(r"```\n(docs/\n.*?)```", PAGE, re.DOTALL)
    assert tree is not None
    path: list[str] = []
    folders = []
    for line in tree[1].splitlines():
        name = line.strip()
        path[(len(line) - len(name)) // 2 :] = [name.rstrip("/")]
        folders.append("/".join(path))
    return folders


def test_the_printed_tree_has_the_folders_that_there_are():
    there = {
        folder.relative_to(ROOT).as_posix()
        for top in TOP_FOLDERS
        for file in (ROOT / top).rglob("*.*")
        if (folder := file.parent) and file.is_file() and not _is_by_product(file.relative_to(ROOT))
    }
    assert printed_folders() == sorted(there)


def _is_by_product(file: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in file.parts)


def test_the_threads_of_a_worker_are_called_as_the_page_says():
    threads = section("Worker:").partition("An executor per campaign")[0]
    names = set(re.findall(r"^\| `([\w-]+)` \|", threads, re.MULTILINE))
    started = "".join(file.read_text() for file in (ROOT / "workers").glob("*.py"))
    assert len(names) == 8
    assert {name for name in names if f'"{name}"' not in started} == set()
