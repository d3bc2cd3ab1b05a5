"""One real server for the model's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_eval.server.lifecycle import start_server, stop_server
from tests.model.still_server import StillLink


@pytest.fixture(scope="session")
def still_link() -> Iterator[StillLink]:
    # Not pytest's folder: the path of a unix socket is short.
    with tempfile.TemporaryDirectory(prefix="qe-model-") as folder:
        home = Path(folder) / "home"
        try:
            # Not always: these tests make thousands of small calls, and kill no server.
            link = StillLink(start_server(home, fsync="everysec", keep=True))
            yield link
            link.close()
        finally:
            stop_server(home)
