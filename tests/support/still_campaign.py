"""A campaign on a server whose clock is set by hand."""

from __future__ import annotations

import itertools

from tests.model.still_server import StillLink
from tests.support.lua_campaign import LuaCampaign

NOON_MS = 1_800_000_000_000

_numbers = itertools.count(1)


class StillCampaign(LuaCampaign):
    def __init__(self, link: StillLink) -> None:
        self._still = link
        self._now_ms = NOON_MS
        link.set_clock(self._now_ms)
        super().__init__(link, f"still{next(_numbers)}")

    def pass_time(self, ms: int) -> None:
        """The clock goes on, or back."""
        self._now_ms += ms
        self._still.set_clock(self._now_ms)
