"""The tutorial and the how-tos, followed to the letter in an empty folder."""

from __future__ import annotations

import pytest

from tests.support.pages import ROOT, reader, steps

DOCS = ROOT / "docs"
# tests/slurm follows the one on Slurm.
HOW_TOS = sorted(f"howto/{page.name}" for page in (DOCS / "howto").glob("*.md") if page.stem != "slurm")


# Some take over 3 s: the tutorial waits for a search of 4 s, and after a fix workers start anew.
@pytest.mark.parametrize("page", ["tutorial.md", *HOW_TOS])
def test_a_page_prints_what_it_shows(page):
    text = (DOCS / page).read_text()
    assert list(steps(text))
    with reader() as follower:
        follower.follow(text)
