"""The how-to on Slurm, followed to the letter."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import MARK
from tests.support.pages import ROOT, reader

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def test_the_page_prints_what_it_shows(cluster):
    environment = {name: cluster.environment[name] for name in ("SLURM_CONF", MARK)}
    with reader(**environment) as follower:
        follower.follow((ROOT / "docs/howto/slurm.md").read_text())
