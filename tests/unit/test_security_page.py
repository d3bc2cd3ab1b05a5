"""The tables of rights in docs/security.md: each row has a test, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows(heading: str) -> dict[str, str]:
    """First cell of each row of the first table under a heading -> the rest."""
    page = (ROOT / "docs" / "security.md").read_text()
    section = page.partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    lines = [line.strip("|").split("|") for line in table.group().splitlines()[2:]]
    return {re.sub(r" \(.*?\)$", "", cells[0].strip()): "|".join(cells[1:]) for cells in lines}


def test_each_row_of_the_rights_has_tests():
    wanted = [*rows("## Who has which file can do what"), *rows("## What an attacker can do, and cannot")]
    shown = rows("### Which test shows it")
    assert sorted(wanted) == sorted(shown)
    for row, cell in shown.items():
        tests = re.findall(r"`([^`]+)::(\w+)`", cell)
        assert tests, row
        for file, test in tests:
            path = ROOT / (file if "/" in file else f"tests/integration/{file}")
            assert f"def {test}(" in path.read_text(), (row, test)


def test_each_guard_of_the_reviewers_page_has_code_and_tests():
    page = (ROOT / "docs" / "review.md").read_text()
    table = page.partition("\n## Guards\n")[2].partition("\n\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 10
    for guard, code, tests in lines:
        for name in re.findall(r"`([^`]+)`", code):
            assert (ROOT / "queue_eval" / name).exists() or (ROOT / name).exists(), (guard, name)
        attacks = re.findall(r"`([^`]+)`", tests)
        assert attacks, guard
        for name in attacks:
            assert (ROOT / (name if "/" in name else f"tests/integration/{name}")).exists(), (guard, name)
