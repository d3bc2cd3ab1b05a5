"""One real server for the scripts' tests, one new campaign for each test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.link import Link
from tests.support.lua_campaign import LuaCampaign, link_to

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def link() -> Iterator[Link]:
    # Not pytest's folder: the path of a unix socket is short.
    with tempfile.TemporaryDirectory(prefix="qe-lua-") as folder:
        home = Path(folder) / "home"
        try:
            # Not always: these tests make thousands of small calls, and kill no server.
            found = link_to(start_server(home, fsync="everysec", keep=True))
            yield found
            found.close()
        finally:
            stop_server(home)


@pytest.fixture
def make_campaign(link: Link) -> Callable[..., LuaCampaign]:
    """Opens a campaign of its own for this test; keyword arguments are fields of its meta."""
    return lambda **fields: LuaCampaign(link, f"c{next(_numbers)}", **fields)


@pytest.fixture
def campaign(make_campaign: Callable[..., LuaCampaign]) -> LuaCampaign:
    return make_campaign()


@pytest.fixture
def anything() -> Any:
    """Bytes of every value, and text of many alphabets."""
    return bytes(range(256)) + "käse ✓ 数 \x00".encode()
