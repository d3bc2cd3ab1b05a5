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

from queue_eval import failpoints, keys
from queue_eval.connection import BlockingClient, GiveUp, Link
from queue_eval.faults import REDIS_ERRORS
from workers.book import Book
from workers.complaints import Complaints
from workers.exchange import Exchange

log = logging.getLogger(__name__)

_BLOCK_S = 2.0
"""A worker with room asks again after so long without a marker: one may have died with who took it."""

_NOT_NOW_S = 0.1
"""How long a campaign that the exchange knows to have work, or reserves room for, is not listened for."""

_NOTICES_BLOCK_S = 20.0
_SAID_BEFORE = 100
_MARGIN_S = 5.0


class _Listener:
    """A thread that blocks on the server until it is stopped."""

    def __init__(self, link: Link, name: str, block_s: float) -> None:
        self._link = link
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
                self._link.wait_until_back(error)

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

    ::

        one server   this thread: BZPOPMIN on all markers
        a cluster    a thread per campaign: BZPOPMIN on its markers ──▶ this thread, which keeps the time

    On a cluster the markers lie in different slots, so that no single command can block on them.

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
        exchange.on_nothing_left = self._nudge
        self._heard = threading.Event()
        self._campaigns: dict[str, _CampaignListener] = {}

    def stop(self) -> None:
        super().stop()
        for listener in self._campaigns.values():
            listener.stop()
        self._heard.set()
        self._exchange.armed.set()

    def _listen(self, client: Any) -> None:
        self._exchange.armed.wait()
        # Before the look: what is to be listened for from then on is worth a nudge.
        self._blocked_on = frozenset()
        wanted = self._book.wake_keys()
        if self._stopped.is_set() or not wanted:
            self._blocked_on = None
            self._disarm()
            return
        if self._link.is_cluster:
            self._listen_by_campaign()
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
        elif time.monotonic() - self._asked_at >= self._block_s:
            self._asked_at = time.monotonic()
            self._report(None)

    def _nudge(self, link: Link) -> None:
        """Have it block anew, if it does so without a marker that is to be listened for."""
        blocked_on = self._blocked_on
        if blocked_on is None or self._link.is_cluster or self._book.wake_keys().keys() <= blocked_on:
            return
        # Without an expiry, to which workers have no right; it is popped at once, or goes with the card.
        link.call(lambda client: client.zadd(self._nudge_key, {"look": 0}))

    def _while_deaf(self) -> None:
        # One campaign's marker may be damaged: the others are asked without any.
        self._report(None)

    def _listen_by_campaign(self) -> None:
        names = self._book.campaigns()
        for name in self._campaigns.keys() - names:
            self._campaigns.pop(name).stop()
        for name in names - self._campaigns.keys():
            self._campaigns[name] = _CampaignListener(self._link, name, self)
            self._campaigns[name].start()
        if not self._heard.wait(self._block_s):
            self._report(None)
        self._heard.clear()

    def keys_of(self, campaign: str) -> list[str]:
        """The markers of a campaign to block on now; waits while the exchange needs none."""
        self._exchange.armed.wait()
        return [key for key, name in self._book.wake_keys().items() if name == campaign]

    def hear(self, campaign: str) -> None:
        """The marker of this campaign was taken."""
        self._report(campaign)
        self._heard.set()

    def _report(self, campaign: str | None) -> None:
        self._book.wanted(campaign)
        self._disarm()

    def _disarm(self) -> None:
        """Block no more until the exchange finds nothing left, unless there are markers to block on: those of
        other campaigns, or of one that the exchange has just asked for."""
        self._exchange.armed.clear()
        if self._book.wake_keys():
            self._exchange.armed.set()


class _CampaignListener(_Listener):
    """Blocks on the markers of one campaign, for the wake listener of a cluster."""

    def __init__(self, link: Link, campaign: str, owner: WakeListener) -> None:
        super().__init__(link, f"wake-listener-{campaign}", _BLOCK_S)
        self._campaign = campaign
        self._owner = owner

    def _listen(self, client: Any) -> None:
        keys_ = self._owner.keys_of(self._campaign)
        if self._stopped.is_set():
            return
        if not keys_:
            self._stopped.wait(_NOT_NOW_S)
        elif client.bzpopmin(keys_, timeout=self._block_s):
            self._owner.hear(self._campaign)


class NoticeListener(_Listener):
    """Reads the stream of notices, and tells the keeper which campaigns they name."""

    def __init__(self, link: Link, hear: Callable[[set[str]], None]) -> None:
        super().__init__(link, "notice-listener", _NOTICES_BLOCK_S)
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
