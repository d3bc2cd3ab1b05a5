"""A thread that deals with the campaign under attack over a connection of its own, past all proxies."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import NoReturn

from queue_eval.errors import CampaignNotFoundError, GiveUp
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link


class SideThread(ABC):
    """Takes turns from `start` to `stop`."""

    def __init__(self, access: Access, name: str, every_s: float) -> None:
        self.errors: list[str] = []
        """Why the thread has ended too early, if it has."""
        self._every_s = every_s
        self._link = Link(access, name="queue-eval-chaos", on_wait=_give_up)
        self._stopped = threading.Event()
        self._takes_last_turn = False
        self._thread = threading.Thread(target=self._work, name=f"chaos-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._link.close()

    @abstractmethod
    def _turn(self) -> None:
        """Deal with the campaign once."""

    def _work(self) -> None:
        try:
            while not self._stopped.wait(self._every_s):
                self._try_turn()
            if self._takes_last_turn:
                self._try_turn()
        except Exception as error:  # the judges must know that nothing was done from now on
            what = type(self).__name__.lower()
            self.errors.append(f"the {what} failed at {time.time():.2f}: {type(error).__name__}: {error}")

    def _try_turn(self) -> None:
        # The server may be away, or the campaign may not exist yet.
        with suppress(GiveUp, CampaignNotFoundError):
            self._turn()


def _give_up(_: float) -> NoReturn:
    raise GiveUp("the server is away")
