"""Workers for the server that tests share, and for one of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_fleet import Fleet


@pytest.fixture
def fleet(server: Path, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(server, tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture
def own_fleet(own_home: Path, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(own_home, tmp_path)
    yield fleet
    fleet.close()
