"""Blocking readers, each with a connection of its own: they wake the others, and never move a job.

What they would tell is also learnt without them (by extending, and by asking again after a while), so a
notice lost with a connection costs seconds, never a job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from queue_eval import keys
from queue_eval.connection import BlockingClient, GiveUp, Link
from queue_eval.faults import REDIS_ERRORS
from workers.book import Book
from workers.exchange import Exchange

log = logging.getLogger(__name__)

_BLOCK_S = 2.0
"""A worker with room asks again after so long without a marker: one may have died with who took it."""

_NOTICES_BLOCK_S = 20.0
_MARGIN_S = 5.0


class _Listener:
    """A thread that blocks on the server until it is stopped."""

    def __init__(self, link: Link, name: str, block_s: float) -> None:
        self._link = link
        self._block_s = block_s
        self._client = BlockingClient(link, block_s + _MARGIN_S)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """It ends with its present block; nobody waits for it."""
        self._stopped.set()

    def _listen(self, client: Any) -> None:
        raise NotImplementedError

    def _listen_once(self) -> None:
        try:
            self._listen(self._client.get())
        except REDIS_ERRORS as error:
            self._client.close()
            if not self._stopped.is_set():
                self._link.wait_until_back(error)

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen_once()
            except GiveUp:
                return
            except Exception:  # a listener that dies would leave the worker deaf
                log.exception("listener failed; trying again")
                self._stopped.wait(1.0)


class WakeListener(_Listener):
    """Blocks on the markers of all campaigns while the exchange has room and knows of no work."""

    def __init__(self, link: Link, book: Book, exchange: Exchange) -> None:
        super().__init__(link, "wake-listener", _BLOCK_S)
        self._book = book
        self._exchange = exchange

    def stop(self) -> None:
        super().stop()
        self._exchange.armed.set()

    def _listen(self, client: Any) -> None:
        self._exchange.armed.wait()
        wanted = self._book.wake_keys()
        if self._stopped.is_set() or not wanted:
            self._exchange.armed.clear()
            return
        popped = client.bzpopmin(list(wanted), timeout=self._block_s)
        # Disarmed before the exchange is told: it arms again when it finds nothing.
        self._exchange.armed.clear()
        self._book.wanted(wanted[popped[0].decode()] if popped else None)


class NoticeListener(_Listener):
    """Reads the stream of notices, and pokes the keeper at each."""

    def __init__(self, link: Link, poke: Callable[[], None]) -> None:
        super().__init__(link, "notice-listener", _NOTICES_BLOCK_S)
        self._poke = poke
        self._cursor: str | None = None

    def _listen(self, client: Any) -> None:
        if self._cursor is None:
            newest = client.xrevrange(keys.NOTICES, count=1)
            self._cursor = newest[0][0].decode() if newest else "0-0"
            self._poke()  # for what was said before this moment
        reply = client.xread({keys.NOTICES: self._cursor}, count=1000, block=round(self._block_s * 1000))
        if reply:
            self._cursor = reply[0][1][-1][0].decode()
            self._poke()
