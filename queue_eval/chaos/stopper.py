"""Asks jobs of the campaign to stop early, over a connection of its own, past all proxies."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import NoReturn

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.view import CampaignView
from queue_eval.chaos.driver import CAMPAIGN
from queue_eval.chaos.evidence import Asked
from queue_eval.chaos.reading import read_lease_numbers
from queue_eval.errors import CampaignNotFoundError, GiveUp
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link

_EVERY_S = 0.25
_JOBS_AT_ONCE = 2


class Stopper:
    """Asks in a thread of its own, from `start` to `stop`. `asked` and `tried` only grow."""

    def __init__(self, access: Access, seed: int) -> None:
        self.asked: list[Asked] = []
        self.tried: set[int] = set()
        """The jobs that the server may have been told of."""
        self.errors: list[str] = []
        """Why the thread has ended too early, if it has."""
        self._dice = random.Random(f"stops {seed}")
        self._link = Link(access, name="queue-eval-chaos", on_wait=_give_up)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chaos-stopper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._link.close()

    def _work(self) -> None:
        try:
            while not self._stopped.wait(_EVERY_S):
                # The server may be away, or the campaign may not exist yet.
                with suppress(GiveUp, CampaignNotFoundError):
                    self._ask()
        except Exception as error:  # the judges must know
            self.errors.append(f"nobody was asked to stop from {time.time():.2f} on: {error!r}")

    def _ask(self) -> None:
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


def _give_up(_: float) -> NoReturn:
    raise GiveUp("the server is away")
