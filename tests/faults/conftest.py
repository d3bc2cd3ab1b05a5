"""Workers for homes with a server of their own, which a test may kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.server.lifecycle import start_server
from tests.support.fault_fleet import Fleet


@pytest.fixture
def fleet(own_home: Path, tmp_path: Path) -> Iterator[Fleet]:
    """A running server of its own, and room for workers."""
    start_server(own_home, keep=True)
    fleet = Fleet(own_home, tmp_path)
    yield fleet
    fleet.close()
