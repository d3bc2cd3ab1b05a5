"""docs/glossary.md: each word once, in order, and each class that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()


def test_each_word_stands_once_in_order():
    words = [row.replace("*", "").lower() for row in re.findall(r"^\| (\*\*.+?) \|", PAGE, re.MULTILINE)]
    assert len(words) > 50
    assert words == sorted(set(words))


def test_the_classes_are_there():
    files = [file for top in ("queue_eval", "workers") for file in (ROOT / top).rglob("*.py")]
    code = "".join(file.read_text() for file in files)
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE))
    assert named
    assert {name for name in named if not re.search(rf"^(class )?{name}\b", code, re.MULTILINE)} == set()
