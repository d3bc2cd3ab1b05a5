"""A thread that looks again and again on behalf of all who look at the same thing.

::

    somebody looks ──▶ start ──▶ look, publish, wait LOOK_EVERY_S ─┐ ◀── poke: look now
                                   ▲                               │
                                   └───────────────────────────────┘──▶ end, LINGER_S after the last viewer

While the server is away it goes on trying, and publishes why. When the campaign is purged, it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from queue_eval.errors import CampaignNotFoundError, QueueEvalError, ServerError, ServerUnreachableError
from queue_eval.foreign_text import plain
from queue_eval.transport.access import Access, safe_url
from queue_eval.transport.link import Link
from queue_eval.web.pushed import Publisher
from queue_eval.web.topics import AWAY, GONE

log = plain(logging.getLogger(__name__))

LOOK_EVERY_S = 0.9
"""A change is shown within a second."""

LINGER_S = 60.0
"""A follower goes on for so long without a viewer: who reloads the page finds it at work."""

_PATIENCE_S = 0.5
"""A call waits for a server that is away for about so long before it gives up until the next look."""

_REPLY_TIMEOUT_S = 5.0
_SOON_S = 0.02
_READY_S = 15.0

T = TypeVar("T")

Drop = Callable[["Follower", bool], bool]


class Follower(ABC):
    """Guarantees: looks and reads exclude each other, so what they share needs no lock of its own.

    `drop(follower, is_over)` is called when nobody has looked for LINGER_S, and when it is over. It returns
    whether the follower is handed out no more. It decides under the lock under which followers are handed
    out, so that nobody is given one that ends.
    """

    def __init__(self, access: Access, drop: Drop) -> None:
        self.publisher = Publisher()
        self.link = Link(
            access, name="queue-eval-web", on_wait=_give_up(access), reply_timeout_s=_REPLY_TIMEOUT_S
        )
        self._drop = drop
        self._busy = threading.Lock()
        self._poked = threading.Event()
        self._is_ready = threading.Event()
        self._is_stopped = False
        self._error: QueueEvalError | None = None
        self._wanted_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    # For viewers --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def touch(self) -> None:
        """Somebody looks."""
        self._wanted_at = time.monotonic()

    @property
    def has_lingered(self) -> bool:
        """Whether nobody has looked for long enough to end."""
        return time.monotonic() > self._wanted_at + LINGER_S

    def poke(self) -> None:
        """Look now: something was changed, or somebody wants something else."""
        self._poked.set()

    def wait_until_ready(self) -> None:
        """Wait for the first look. Raises CampaignNotFoundError if it has found nothing."""
        self._is_ready.wait(_READY_S)
        if isinstance(self._error, CampaignNotFoundError):
            raise self._error

    def read(self, reading: Callable[[], T]) -> T:
        """What `reading` gives after a look that has found the server. Raises what the look has raised."""
        self.touch()
        self.wait_until_ready()
        with self._busy:
            if self._error is not None:
                raise self._error
            if not self._is_ready.is_set():
                raise ServerUnreachableError("the server has not answered yet; try again")
            return reading()

    def stop(self) -> None:
        """End soon. May be called twice."""
        self._is_stopped = True
        self.publisher.close()
        self._poked.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    # What it follows ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _name(self) -> str:
        """The name of the thread."""

    @abstractmethod
    def _look(self) -> bool:
        """Look and publish. Returns whether there is nothing left to read at once."""

    @abstractmethod
    def _close(self) -> None:
        """Keep what was read. The link is still open."""

    # The thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_stopped and not self._is_unwanted():
                started = time.monotonic()
                self._poked.clear()
                is_at_end = self._try_to_look()
                self._is_ready.set()
                if isinstance(self._error, CampaignNotFoundError):
                    break
                rest_s = started + LOOK_EVERY_S - time.monotonic()
                self._poked.wait(max(_SOON_S, rest_s) if is_at_end else _SOON_S)
        finally:
            self._drop(self, True)
            self._is_ready.set()
            with suppress(QueueEvalError), self._busy:
                self._close()
            self.publisher.close()
            self.link.close()

    def _try_to_look(self) -> bool:
        try:
            with self._busy:
                is_at_end = self._look()
                self._error = None
        except CampaignNotFoundError as error:
            self._error = error
            self.publisher.publish(GONE, "gone", {"sentence": str(error)})
            return True
        except QueueEvalError as error:
            self._error = error
            self.publisher.publish(AWAY, "away", {"sentence": str(error)})
            if isinstance(error, ServerError):
                self._wake_server()
            return True
        except Exception as error:
            log.exception("%s: the look has failed", self._name)
            self._error = QueueEvalError(f"unexpected {type(error).__name__}: {error}")
            self.publisher.publish(AWAY, "away", {"sentence": str(self._error)})
            return True
        self._come_back()
        return is_at_end

    def _come_back(self) -> None:
        """Send everything again to those who were told that the server is away."""
        if self.publisher.after(0, {AWAY}):
            self.publisher.withdraw({AWAY, *self.publisher.wanted()})
            self.poke()

    def _wake_server(self) -> None:
        """Start a server again that had stopped because nobody needed it, as other commands that look do."""
        from queue_eval.server.lifecycle import wake_server

        home = self.link.access.home
        if home is not None:
            with suppress(QueueEvalError, OSError):
                wake_server(home)

    def _is_unwanted(self) -> bool:
        if self.publisher.wanted():
            self.touch()
        return self.has_lingered and self._drop(self, False)


def _give_up(access: Access) -> Callable[[float], None]:
    def give_up(away_s: float) -> None:
        if away_s > _PATIENCE_S:
            raise ServerUnreachableError(
                f"the server at {safe_url(access.url)} is away; this page goes on when it is back"
            )

    return give_up
