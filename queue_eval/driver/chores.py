"""The chores of a waiting driver: it keeps its workers, reclaims lost leases and watches over the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.driver.service import ServiceCheck
from queue_eval.errors import GiveUp, ServerError
from queue_eval.foreign_text import plain
from queue_eval.model.moves import Snapshot
from queue_eval.server.home_loss import HomeLoss
from queue_eval.server.lifecycle import revive_server, server_state
from queue_eval.user_warning import warn_user

log = plain(logging.getLogger(__name__))

RECLAIM_EVERY_S = 2.0
ENSURE_EVERY_S = 1.0
LOOK_EVERY_S = 3.0
LIST_EVERY_S = 10.0
SHOW_EVERY_S = 1.0

UNSERVED_S = 10.0
"""Time spent waiting after which the user is warned of what keeps jobs waiting: see `ServiceCheck`."""

MOST_COUNTED_S = 2.0
"""Longest single wait that counts: see `Chores.count_wait`."""

REVIVE_AFTER_S = 1.0
"""An embedded server that has been away for this long is restarted."""

GRACE_MS = 30_000
"""After the server was away, nothing is reclaimed for this long, which is one lease."""


class Patience:
    """Called while a driver's link waits for its server (`on_wait` of `Link`).

    Restarts the embedded server, and ends a wait that has a deadline.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._local = threading.local()
        self._next_revival = 0.0
        self._last_message = ""
        self.closed = False

    @contextmanager
    def until(self, deadline: float | None) -> Iterator[None]:
        """Within, a wait of this thread for the server raises GiveUp at `deadline` (monotonic, s)."""
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
                    self._tell(self._why_not(self._home))

    @staticmethod
    def _why_not(home: Path) -> str:
        if server_state(home).state == "absent":
            return (
                f"the folder {home} was removed, and the campaign with it; bring the folder back, or begin "
                "the campaign again"
            )
        start = f"queue-eval server start --home {quote(str(home))}"
        return f"the server of {home} was stopped, or ran elsewhere; start it: {start}"

    def _tell(self, message: str) -> None:
        """Log a message, but not twice in a row: the restart is tried again every few seconds."""
        if message != self._last_message:
            log.warning("%s", message)
        self._last_message = message


class Chores:
    """A waiting driver's regular duties, each at its own pace. Called by one thread at a time."""

    def __init__(
        self, queue: CampaignCommands, ensure_workers: Callable[[], None] | None, *,
        label: str = DEFAULT_QUEUE, forwards: bool = False, on_wait: Callable[[Snapshot], None] | None = None,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._ensure_workers = ensure_workers
        self._service = ServiceCheck(
            queue, label=label, hires=ensure_workers is not None, forwards=forwards
        )
        self._home = HomeLoss(queue.link.access.home)
        self._due = {"ensure": 0.0, "reclaim": 0.0, "look": 0.0, "list": 0.0, "show": 0.0}
        self._on_wait = on_wait
        self._waited_s = 0.0

    def run(self) -> None:
        """Do the chores that are due. Raises CampaignNotFoundError when the campaign was purged."""
        if self._ensure_workers is not None and self._is_due("ensure", ENSURE_EVERY_S):
            self._ensure_workers()
        if self._is_due("reclaim", RECLAIM_EVERY_S):
            while self._queue.reclaim(grace_ms=GRACE_MS).more:
                pass
        if self._is_due("look", LOOK_EVERY_S):
            if (loss := self._home.tell()) is not None:
                warn_user(loss)
            self._service.look(self._waited_s, UNSERVED_S)

        if self._is_due("list", LIST_EVERY_S):
            self._queue.stay_listed()
        self.show()

    def show(self, *, is_last: bool = False) -> None:
        """Tell callbacks that want to know how far the campaign is, every second. `is_last`: also before."""
        if self._on_wait is not None and (self._is_due("show", SHOW_EVERY_S) or is_last):
            self._on_wait(self._queue.snapshot())

    def count_wait(self, waited_s: float) -> None:
        """Add to the time that the driver has spent waiting, by which it judges how long nobody has served.

        At most `MOST_COUNTED_S` of one wait count: a driver that stood still, or whose server was away, did
        not see whether anybody served.
        """
        self._waited_s += min(waited_s, MOST_COUNTED_S)

    def _is_due(self, chore: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._due[chore]:
            return False
        self._due[chore] = now + every_s
        return True
