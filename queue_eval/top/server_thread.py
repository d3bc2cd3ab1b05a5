"""The one thread of the live view that talks to the server.

::

    screens ── watch(look), perform(action) ──▶ thread ── look.read(), action() ──▶ server
    screens ◀── post(Looked, Troubled, Away, Performed) ── thread

The thread reads what the top screen shows, about once a second; in between it does what people ask for. A
server that goes away is waited for within the call that has noticed, and that is told meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from queue_eval.errors import GiveUp, QueueEvalError
from queue_eval.foreign_text import plain
from queue_eval.transport.access import Access
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

READ_EVERY_S = 1.0

_REST_FACTOR = 50
"""The thread rests so many times as long as a look has kept the processor busy: 2 % of a core at most."""

_MAX_REST_S = 10.0
_TELL_AFTER_S = 0.5
"""An outage is told of after so long."""


class Look(Protocol):
    """What a screen has read, again and again."""

    def read(self) -> Any:
        """What is shown now; called in the thread."""

    def close(self) -> None:
        """It is not read any more; called in the thread."""


@dataclass(frozen=True)
class Looked:
    look: Look
    data: Any


@dataclass(frozen=True)
class Troubled:
    """A look or an action has failed."""

    look: Look | None
    error: QueueEvalError


@dataclass(frozen=True)
class Away:
    """The server is away since `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Performed:
    sentence: str


@dataclass(frozen=True)
class Crashed:
    """The thread has ended: something is wrong with this program."""

    error: Exception


Event = Looked | Troubled | Away | Performed | Crashed


class ServerThread:
    """`post` is called in the thread. `close` may be called twice."""

    def __init__(self, access: Access) -> None:
        self.link = Link(access, name="queue-eval-top", on_wait=self._wait)
        self.post: Callable[[Event], None] = lambda _: None
        self._changed = threading.Condition()
        self._looks: list[Look] = []
        """Those that are open. The last one is read."""
        self._over: list[Look] = []
        self._actions: deque[Callable[[], str]] = deque()
        self._due = 0.0
        self._closed = False
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name="queue-eval-top", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End soon, whatever the server does."""
        with self._changed:
            self._closed = True
            self._over += self._looks
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self.link.close()

    def watch(self, look: Look) -> None:
        """Read this from now on, until it is left."""
        with self._changed:
            if look in self._looks:
                self._looks.remove(look)
            self._looks.append(look)
            self._due = 0.0
            self._changed.notify()

    def leave(self, look: Look) -> None:
        """Read it no more; go on with the one before."""
        with self._changed:
            if look in self._looks:
                self._looks.remove(look)
                self._over.append(look)
            self._due = 0.0
            self._changed.notify()

    def hurry(self) -> None:
        """Read at once: what is to be shown has changed."""
        with self._changed:
            self._due = 0.0
            self._changed.notify()

    def perform(self, action: Callable[[], str]) -> None:
        """Do this as soon as possible, and post the sentence that it gives."""
        with self._changed:
            self._actions.append(action)
            self._due = 0.0
            self._changed.notify()

    @property
    def busy_s(self) -> float:
        """For how long it has been busy with the same look or action (s)."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    # ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                action, look, over = self._next()
                for one in over:
                    one.close()
                self._began = time.monotonic()
                if action is not None:
                    self._perform(action)
                elif look is not None:
                    self._read(look)
                elif self._closed:
                    return
                self._began = None
        except GiveUp:
            pass
        except Exception as error:
            self.post(Crashed(error))

    def _next(self) -> tuple[Callable[[], str] | None, Look | None, list[Look]]:
        """What is to be done now: an action, a look to read, looks to close."""
        with self._changed:
            while not (self._closed or self._actions or self._over):
                left_s = self._due - time.monotonic() if self._looks else None
                if left_s is not None and left_s <= 0:
                    break
                self._changed.wait(left_s)
            over, self._over = self._over, []
            if self._closed:
                return None, None, over
            if self._actions:
                return self._actions.popleft(), None, over
            self._due = time.monotonic() + READ_EVERY_S
            return None, self._looks[-1] if self._looks else None, over

    def _read(self, look: Look) -> None:
        began_s = time.thread_time()
        try:
            data = look.read()
        except GiveUp:
            raise
        except QueueEvalError as error:
            self.post(Troubled(look, error))
        else:
            self.post(Looked(look, data))
        busy_s = time.thread_time() - began_s
        with self._changed:
            if self._due:
                rest_s = min(_MAX_REST_S, _REST_FACTOR * busy_s)
                self._due = max(self._due, time.monotonic() + rest_s)

    def _perform(self, action: Callable[[], str]) -> None:
        try:
            self.post(Performed(action()))
        except QueueEvalError as error:
            self.post(Troubled(None, error))

    def _wait(self, away_s: float) -> None:
        if self._closed:
            raise GiveUp
        if away_s >= _TELL_AFTER_S:
            self.post(Away(away_s))
