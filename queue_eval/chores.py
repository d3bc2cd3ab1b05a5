"""What a waiting driver does besides waiting: keep its workers, take back lost leases, mind the server."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from queue_eval.connection import GiveUp
from queue_eval.errors import ServerError
from queue_eval.fleet import live_workers
from queue_eval.keys import DEFAULT_QUEUE
from queue_eval.queue import CampaignQueue
from queue_eval.server import revive_server

log = logging.getLogger(__name__)

RECLAIM_EVERY_S = 2.0
ENSURE_EVERY_S = 1.0
LOOK_EVERY_S = 3.0
UNSERVED_S = 10.0
REVIVE_AFTER_S = 1.0
GRACE_MS = 30_000
"""After the server was away, nothing is reclaimed for this long: one lease length."""


class Patience:
    """`on_wait` of a driver's link: restarts its embedded server, and ends a wait that has a deadline."""

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._local = threading.local()
        self._next_revival = 0.0
        self._told = ""
        self.closed = False

    @contextmanager
    def until(self, deadline: float | None) -> Iterator[None]:
        """Within, this thread waits for the server until `deadline` (monotonic, s) at most: then GiveUp."""
        self._local.deadline = deadline
        try:
            yield
        finally:
            self._local.deadline = None

    def __call__(self, away_s: float) -> None:
        deadline = getattr(self._local, "deadline", None)
        now = time.monotonic()
        if self.closed or (deadline is not None and now >= deadline):
            raise GiveUp
        if self._home is not None and away_s >= REVIVE_AFTER_S and now >= self._next_revival:
            self._next_revival = now + 5.0
            try:
                revived = revive_server(self._home)
            except ServerError as error:
                self._tell(f"the embedded server cannot be restarted yet: {error}")
            else:
                if revived is None:
                    self._tell(f"the server of {self._home} was stopped; start it: queue-eval server start")

    def _tell(self, what: str) -> None:
        """Once: it is tried again every few seconds."""
        if what != self._told:
            log.warning("%s", what)
        self._told = what


class Chores:
    """A waiting driver's regular duties, each at its own pace. Called by one thread at a time."""

    def __init__(
        self, queue: CampaignQueue, ensure_workers: Callable[[], None] | None, *, label: str = DEFAULT_QUEUE
    ) -> None:
        self._queue = queue
        self._label = label
        self._ensure_workers = ensure_workers
        self._due = {"ensure": 0.0, "reclaim": 0.0, "look": 0.0, "measure": 0.0}
        self._unserved_since: float | None = None
        self._has_warned = False
        self._too_wide_since: float | None = None
        self._has_warned_of_width = False

    def run(self) -> None:
        """Do what is due. Raises CampaignNotFoundError when the campaign was purged."""
        if self._ensure_workers is not None and self._is_due("ensure", ENSURE_EVERY_S):
            self._ensure_workers()
        if self._is_due("reclaim", RECLAIM_EVERY_S):
            while self._queue.reclaim(grace_ms=GRACE_MS).more:
                pass
        if not self._has_warned and self._is_due("look", LOOK_EVERY_S):
            self._look_for_workers()
        if not self._has_warned_of_width and self._is_due("measure", LOOK_EVERY_S):
            self._look_for_width()

    def rest(self) -> None:
        """A new wait begins: what was seen before says nothing about how long nobody has served."""
        self._unserved_since = None

    def _is_due(self, chore: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due[chore]:
            return False
        self._due[chore] = now + every_s
        return True

    def _look_for_workers(self) -> None:
        snapshot = self._queue.snapshot()
        now = time.monotonic()
        if any(worker.expiry_ms > snapshot.now_ms for worker in snapshot.workers):
            self._unserved_since = None
            return
        if refusals := self._refusals():
            self._has_warned = True
            worker, why = refusals[0]
            others = f" (and {len(refusals) - 1} others)" if len(refusals) > 1 else ""
            warnings.warn(
                f"worker {worker}{others} does not serve campaign {self._queue.campaign!r}: {why}",
                UserWarning,
                stacklevel=2,
            )
        elif self._unserved_since is None:
            self._unserved_since = now
        elif self._ensure_workers is None and now - self._unserved_since >= UNSERVED_S:
            self._has_warned = True
            warnings.warn(
                f"no worker has served campaign {self._queue.campaign!r} for {UNSERVED_S:.0f} s; "
                f"start one with: queue-eval worker --campaign {self._queue.campaign}",
                UserWarning,
                stacklevel=2,
            )

    def _refusals(self) -> list[tuple[str, str]]:
        """Workers that the campaign is for and that will not, or cannot, serve it, and why."""
        cards = [worker.card for worker in live_workers(self._queue.link)]
        campaign = self._queue.campaign
        return [(card.name, card.refused[campaign]) for card in cards if campaign in card.refused]

    def _look_for_width(self) -> None:
        """Warn once of a job that takes more slots than any worker has that serves the campaign."""
        campaign, now = self._queue.campaign, time.monotonic()
        wanted = self._queue.widest_pending()
        cards = [worker.card for worker in live_workers(self._queue.link)] if wanted > 1 else []
        slots = (card.slots or 0 for card in cards if card.serves(campaign, self._label))
        widest = max(slots, default=wanted)
        if widest >= wanted:
            self._too_wide_since = None
        elif self._too_wide_since is None:
            self._too_wide_since = now
        elif now - self._too_wide_since >= UNSERVED_S:
            self._has_warned_of_width = True
            warnings.warn(
                f"a job of campaign {campaign!r} takes {wanted} slots, and no worker that serves it has more "
                f"than {widest}; start one with: queue-eval worker -n {wanted} --campaign {campaign}",
                UserWarning,
                stacklevel=2,
            )
