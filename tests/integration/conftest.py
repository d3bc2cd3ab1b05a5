"""Workers for the server that tests share, for one of a test's own, and for a group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Filled
from tests.support.fault_fleet import Fleet
from tests.support.group import Group, running_group


@pytest.fixture
def fleet(server: Path, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(server, tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture
def filled(server: Path, campaign: str) -> Iterator[Filled]:
    """An empty campaign, which a test fills by hand."""
    filled = Filled(server, campaign)
    yield filled
    filled.queue.purge()
    filled.link.close()


@pytest.fixture
def own_fleet(own_home: Path, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(own_home, tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """A server for a group, with one worker that has only its own file."""
    with running_group() as group:
        yield group
