"""Asks jobs of the campaign to stop early, over a connection of its own, past all proxies."""

from __future__ import annotations

import random
import time

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.view import CampaignView
from queue_eval.chaos.driver import CAMPAIGN
from queue_eval.chaos.evidence import Asked
from queue_eval.chaos.reading import read_lease_numbers
from queue_eval.chaos.side_thread import SideThread
from queue_eval.model.states import State
from queue_eval.transport.access import Access

_EVERY_S = 0.25
_JOBS_AT_ONCE = 2


class Stopper(SideThread):
    """Asks in a thread of its own, from `start` to `stop`. `asked` and `tried` only grow."""

    def __init__(self, access: Access, seed: int) -> None:
        super().__init__(access, "stopper", _EVERY_S)
        self.asked: list[Asked] = []
        self.tried: set[int] = set()
        """The jobs that the server may have been told of."""
        self._dice = random.Random(f"stops {seed}")

    def _turn(self) -> None:
        view = CampaignView.attach(self._link, CAMPAIGN)[0]
        # Jobs that wait for their next attempt are few, and among those that are scheduled.
        able = sorted({job for job, state, _ in view.outstanding() if state is not State.PENDING})
        chosen = self._dice.sample(able, min(len(able), _JOBS_AT_ONCE))
        if not chosen:
            return
        self.tried.update(chosen)
        asked = CampaignCommands(self._link, CAMPAIGN, view.uid).stop(chosen).asked
        at = time.time()
        numbers = read_lease_numbers(self._link, view, asked)
        self.asked += [Asked(job, at, numbers[job]) for job in asked]
