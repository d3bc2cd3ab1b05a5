"""The pages of docs/ against what they are to hold: the reference every public name, the site every page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import queue_eval

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_has_each_public_name_once():
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)$", pages, re.MULTILINE)
    others = {"errors", "CurrentJob"}  # a module, and what `current_job` returns
    assert sorted(set(named) - others) == sorted(queue_eval.__all__)
    assert len(named) == len(set(named))


def test_the_contents_name_each_page():
    """Without Sphinx, which only the site needs."""
    configuration = ast.parse((DOCS / "conf.py").read_text())
    (contents,) = (
        statement.value
        for statement in configuration.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CONTENTS"
    )
    tables = ast.literal_eval(contents)
    named = [name for captions in tables.values() for _, pages in captions for name in pages]
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    decisions = {page for page in pages if re.match(r"adr/\d", page)}
    assert sorted([*named, "index"]) == sorted({*pages - decisions, "[0-9]*"})
