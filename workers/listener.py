"""Blocking readers, each with a connection of its own: they wake the others, and never move a job.

What they would tell is also learnt without them (by extending, and by asking again after a while), so a
notice lost with a connection costs seconds, never a job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from queue_eval import failpoints
from queue_eval.campaign import keys
from queue_eval.errors import GiveUp
from queue_eval.foreign_text import plain
from queue_eval.transport.error_kinds import REDIS_ERRORS
from queue_eval.transport.link import BlockingClient, Link
from workers.book import Book
from workers.cluster_ears import ClusterEars
from workers.complaints import Complaints
from workers.exchange import Exchange

log = plain(logging.getLogger(__name__))

_BLOCK_S = 2.0
"""A worker with room asks again after so long without a marker: one may have died with who took it."""

_NOTICES_BLOCK_S = 20.0
_SAID_BEFORE = 100
_MARGIN_S = 5.0


class _Listener:
    """A thread that blocks on the server until it is stopped."""

    def __init__(self, link: Link, name: str, block_s: float, key: str | None = None) -> None:
        """`key`: what it reads; on a cluster it waits for the node of this."""
        self._link = link
        self._key = key
        self._block_s = block_s
        self._client = BlockingClient(link, block_s + _MARGIN_S)
        self._complaints = Complaints(log)
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
                self._link.wait_until_back(error, self._key)

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen_once()
            except GiveUp:
                return
            except Exception as error:  # a listener that dies would leave the worker deaf
                self._complaints.add(f"{self._thread.name} failed, trying again", error)
                self._stopped.wait(1.0)
                self._while_deaf()

    def _while_deaf(self) -> None:
        """Nothing can be heard for now."""


class WakeListener(_Listener):
    """Blocks on the markers of all campaigns while the exchange has room and knows of no work.

    On a cluster the markers lie in different slots, so that no single command can block on them: see
    `ClusterEars`.

    A marker that is to be listened for while this thread blocks without it would be heard when the block
    ends. So it blocks on a key of its own, too, which the exchange sets then.
    """

    def __init__(self, link: Link, book: Book, exchange: Exchange, worker: str) -> None:
        super().__init__(link, "wake-listener", _BLOCK_S)
        self._book = book
        self._exchange = exchange
        self._nudge_key = keys.nudge_key(worker)
        self._blocked_on: frozenset[str] | None = None
        """The markers that it blocks on; none while it looks which; None while it does not block."""
        self._asked_at = time.monotonic()
        self._ears = ClusterEars(link, _BLOCK_S) if link.is_cluster else None
        exchange.on_nothing_left = self._nudge

    def stop(self) -> None:
        super().stop()
        self._exchange.armed.set()
        if self._ears is not None:
            self._ears.interrupt()

    def _listen_once(self) -> None:
        if self._ears is None:
            super()._listen_once()
        else:
            self._listen_to_nodes(self._ears)

    def _listen(self, client: Any) -> None:
        self._exchange.armed.wait()
        # Before the look: what is to be listened for from then on is worth a nudge.
        self._blocked_on = frozenset()
        wanted = self._book.wake_keys()
        if self._stopped.is_set() or not wanted:
            self._blocked_on = None
            self._disarm()
            return
        self._blocked_on = frozenset(wanted)
        try:
            failpoints.reach("server.before-wake")
            popped = client.bzpopmin([*wanted, self._nudge_key], timeout=self._block_s)
            failpoints.reach("server.after-wake")
        finally:
            self._blocked_on = None
        key = popped[0].decode() if popped else ""
        if key in wanted:
            self._report(wanted[key])
        else:
            self._ask_all_in_time()

    def _listen_to_nodes(self, ears: ClusterEars) -> None:
        if not ears.are_open:
            self._exchange.armed.wait()
        # Where the exchange needs no marker any more, what is blocked on still tells who has taken one.
        wanted = self._book.wake_keys() if self._exchange.armed.is_set() else {}
        if self._stopped.is_set():
            ears.close()
            return
        if not wanted and not ears.are_open:
            self._disarm()
            return
        for campaign in ears.listen(wanted):
            self._report(campaign)
        self._ask_all_in_time()

    def _ask_all_in_time(self) -> None:
        if time.monotonic() - self._asked_at >= self._block_s:
            self._asked_at = time.monotonic()
            self._report(None)

    def _nudge(self, link: Link) -> None:
        """Have it block anew, if it does so without a marker that is to be listened for."""
        if self._ears is not None:
            self._ears.interrupt()
            return
        blocked_on = self._blocked_on
        if blocked_on is None or self._book.wake_keys().keys() <= blocked_on:
            return
        # Without an expiry, to which workers have no right; it is popped at once, or goes with the card.
        link.call(lambda client: client.zadd(self._nudge_key, {"look": 0}))

    def _while_deaf(self) -> None:
        # One campaign's marker may be damaged: the others are asked without any.
        self._report(None)

    def _report(self, campaign: str | None) -> None:
        self._book.wanted(campaign)
        self._disarm()

    def _disarm(self) -> None:
        """Block no more until the exchange finds nothing left, unless there are markers to block on: those of
        other campaigns, or of one that the exchange has just asked for."""
        self._exchange.armed.clear()
        if self._book.wake_keys():
            self._exchange.armed.set()


class NoticeListener(_Listener):
    """Reads the stream of notices, and tells the keeper which campaigns they name."""

    def __init__(self, link: Link, hear: Callable[[set[str]], None]) -> None:
        super().__init__(link, "notice-listener", _NOTICES_BLOCK_S, keys.NOTICES)
        self._hear = hear
        self._cursor: str | None = None

    def _listen(self, client: Any) -> None:
        if self._cursor is None:
            newest = client.xrevrange(keys.NOTICES, count=_SAID_BEFORE)
            self._cursor = newest[0][0].decode() if newest else "0-0"
            self._hear(_campaigns_in(newest))  # what was said since this worker has looked first
        reply = client.xread({keys.NOTICES: self._cursor}, count=1000, block=round(self._block_s * 1000))
        if reply:
            notices = reply[0][1]
            self._cursor = notices[-1][0].decode()
            self._hear(_campaigns_in(notices))


def _campaigns_in(notices: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> set[str]:
    return {about[b"campaign"].decode(errors="replace") for _, about in notices if b"campaign" in about}
