"""Blocking readers, each with a connection of its own: they wake the other threads, and never move a job.

The worker also learns without them that there is work, by extending leases and by asking again after a while.
So a notice that is lost with a connection costs seconds, never a job.
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
from workers.cluster_listener import ClusterListener
from workers.repeated_log import RepeatedLog
from workers.settler import Settler
from workers.state.worker_state import WorkerState

log = plain(logging.getLogger(__name__))

_BLOCK_S = 2.0
"""A worker with room asks again after so long without a marker: a worker that took one may have died."""

_NOTICES_BLOCK_S = 20.0
_MAX_EARLIER_NOTICES = 100
"""How many notices are read that came before this worker began to listen."""

_MARGIN_S = 5.0
"""A reply may come so much later than the block ends."""


class _Listener:
    """A thread that blocks on the server until it is stopped."""

    def __init__(self, link: Link, name: str, block_s: float, key: str | None = None) -> None:
        """`key`: the key that it reads. On a cluster it waits for the node of this key."""
        self._link = link
        self._key = key
        self._block_s = block_s
        self._client = BlockingClient(link, block_s + _MARGIN_S)
        self._repeated_log = RepeatedLog(log)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Make it end with its present block; nobody waits for it."""
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
                self._repeated_log.add(f"{self._thread.name} failed, trying again", error)
                self._stopped.wait(1.0)
                self._while_deaf()

    def _while_deaf(self) -> None:
        """Called while nothing can be heard."""


class WakeListener(_Listener):
    """Blocks on the markers of all campaigns while the settler has room and knows of no work.

    On a cluster the markers lie in different slots, so that no single command can block on them: see
    `ClusterListener`.

    A new marker would not be heard before the present block ends. So this thread also blocks on a nudge key
    of its own, which the settler sets when there is another marker to listen for.
    """

    def __init__(self, link: Link, state: WorkerState, settler: Settler, worker: str) -> None:
        super().__init__(link, "wake-listener", _BLOCK_S)
        self._state = state
        self._settler = settler
        self._nudge_key = keys.nudge_key(worker)
        self._blocked_on: frozenset[str] | None = None
        """The markers that it blocks on: none while it looks which; None while it does not block."""
        self._asked_at = time.monotonic()
        self._cluster = ClusterListener(link, _BLOCK_S) if link.is_cluster else None
        settler.on_nothing_left = self._nudge

    def stop(self) -> None:
        super().stop()
        self._settler.may_listen.set()
        if self._cluster is not None:
            self._cluster.interrupt()

    def _listen_once(self) -> None:
        if self._cluster is None:
            super()._listen_once()
        else:
            self._listen_to_nodes(self._cluster)

    def _listen(self, client: Any) -> None:
        self._settler.may_listen.wait()
        # Set before the look: a marker that is added after the look must cause a nudge.
        self._blocked_on = frozenset()
        wanted = self._state.wake_keys()
        if self._stopped.is_set() or not wanted:
            self._blocked_on = None
            self._forbid_listening()
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

    def _listen_to_nodes(self, cluster: ClusterListener) -> None:
        if not cluster.is_blocking:
            self._settler.may_listen.wait()
        # When the settler needs no marker any more, open blocks are still read: they may have taken one.
        wanted = self._state.wake_keys() if self._settler.may_listen.is_set() else {}
        if self._stopped.is_set():
            cluster.close()
            return
        if not wanted and not cluster.is_blocking:
            self._forbid_listening()
            return
        for campaign in cluster.listen(wanted):
            self._report(campaign)
        self._ask_all_in_time()

    def _ask_all_in_time(self) -> None:
        if time.monotonic() - self._asked_at >= self._block_s:
            self._asked_at = time.monotonic()
            self._report(None)

    def _nudge(self, link: Link) -> None:
        """Make it block anew, if it blocks without a marker that is to be listened for."""
        if self._cluster is not None:
            self._cluster.interrupt()
            return
        blocked_on = self._blocked_on
        if blocked_on is None or self._state.wake_keys().keys() <= blocked_on:
            return
        # Workers have no right to set an expiry. The key is popped at once, or deleted with the card.
        link.call(lambda client: client.zadd(self._nudge_key, {"look": 0}))

    def _while_deaf(self) -> None:
        # The marker of one campaign may be damaged: the others are asked without a marker.
        self._report(None)

    def _report(self, campaign: str | None) -> None:
        self._state.wanted(campaign)
        self._forbid_listening()

    def _forbid_listening(self) -> None:
        """Block no more until the settler finds nothing left, unless there are markers to block on: those of
        other campaigns, or of a campaign that the settler has just asked for."""
        self._settler.may_listen.clear()
        if self._state.wake_keys():
            self._settler.may_listen.set()


class NoticeListener(_Listener):
    """Reads the stream of notices, and passes on which campaigns they name."""

    def __init__(
        self, link: Link, worker: str, hear: Callable[[set[str]], None],
        hear_stop: Callable[[set[str]], None],
    ) -> None:  # fmt: skip
        """`hear` is called with the campaigns that notices name; `hear_stop` with those in which jobs that
        `worker` holds were asked to stop."""
        super().__init__(link, "notice-listener", _NOTICES_BLOCK_S, keys.NOTICES)
        self._worker = worker.encode()
        self._hear = hear
        self._hear_stop = hear_stop
        self._cursor: str | None = None

    def _listen(self, client: Any) -> None:
        if self._cursor is None:
            newest = client.xrevrange(keys.NOTICES, count=_MAX_EARLIER_NOTICES)
            self._cursor = newest[0][0].decode() if newest else "0-0"
            # notices that came since this worker first looked at the campaigns
            self._hear(_campaigns_in(newest))
        reply = client.xread({keys.NOTICES: self._cursor}, count=1000, block=round(self._block_s * 1000))
        if reply:
            notices = reply[0][1]
            self._cursor = notices[-1][0].decode()
            for_some = [fields for _, fields in notices if b"workers" in fields]
            if mine := [fields for fields in for_some if self._worker in fields[b"workers"].split()]:
                self._hear_stop({fields[b"campaign"].decode(errors="replace") for fields in mine})
            if len(for_some) < len(notices):
                self._hear(_campaigns_in(notices))


def _campaigns_in(notices: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> set[str]:
    return {
        fields[b"campaign"].decode(errors="replace")
        for _, fields in notices
        if b"campaign" in fields and b"workers" not in fields
    }
