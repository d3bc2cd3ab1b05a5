"""Tells the worker once a second what attempts in this process print, where it cannot read that itself.

::

    run function ──prints──▶ what is kept ◀──looks, once a second── PrintTeller ──frame `printed`──▶ worker

An attempt that ends within half a second is not told of: its output goes with its report. What the worker has
no room for goes with a later look, or is left out: only the newest part is ever sent.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.runtime.pipe import HeadTail, Kind

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_eval.runtime.attempts import Send

    Look = Callable[[int], tuple[int, bytes] | None]
    """Given how many bytes are known: how many there are now, and the newest LIVE_BYTES of the others. None
    when there are no others, or they cannot be read now."""

EVERY_S = 1.0
"""How often attempts are looked at, here and in the worker."""

NOT_BEFORE_S = 0.5
"""An attempt that has run for less is not told of."""

_IDLE_LOOKS = 5
"""The thread ends after so many looks at which nothing ran."""


class _Watched:
    def __init__(self, look: Look, send: Send) -> None:
        self.look = look
        self.send = send
        self.total = 0
        self.since = time.monotonic()


class PrintTeller:
    """Of one process. Thread-safe; a fork has none. `watch` and `forget` wait for a look under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[tuple[int, int], _Watched] = {}
        self._has_thread = False

    def watch(self, token: tuple[int, int], look: Look, send: Send) -> None:
        """Look at this attempt from now on, until it is forgotten."""
        watched = _Watched(look, send)
        with self._lock:
            self._watched[token] = watched
            begins, self._has_thread = not self._has_thread, True
        if begins:
            thread = threading.Thread(target=self._work, name="print-teller", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads: then nothing is live
                thread.start()

    def forget(self, token: tuple[int, int]) -> None:
        """The attempt ends. Nothing of it is looked at once this returns."""
        with self._lock:
            self._watched.pop(token, None)

    def _work(self) -> None:
        idle = 0
        while True:
            time.sleep(EVERY_S)
            with self._lock:
                idle = 0 if self._watched else idle + 1
                if idle > _IDLE_LOOKS:
                    self._has_thread = False
                    return
                for token, watched in self._watched.items():
                    with contextlib.suppress(OSError):  # nobody receives: then nobody needs it
                        self._tell(token, watched)

    def _tell(self, token: tuple[int, int], watched: _Watched) -> None:
        if time.monotonic() - watched.since < NOT_BEFORE_S:
            return
        found = watched.look(watched.total)
        if found is not None and watched.send((Kind.PRINTED, *token, found[0]), found[1]):
            watched.total = found[0]


class SharedHeadTail(HeadTail):
    """What one thread prints, and another one looks at. It takes no lock: a finaliser may print at any
    moment, also while this very thread is in `add`."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._begun = self._done = 0

    def add(self, data: bytes) -> None:
        self._begun += 1
        super().add(data)
        self._done += 1

    def look(self, since: int) -> tuple[int, bytes] | None:
        """See `Look`. Nothing is read while something is being added: the next look finds it."""
        done = self._done
        if self._begun != done or self.count <= since:
            return None
        count = self.count
        text = self.newest(min(LIVE_BYTES, count - since))
        return (count, text) if self._begun == done else None


def look_at_file(fd: int, since: int) -> tuple[int, bytes] | None:
    """See `Look`: of a file that holds what is printed."""
    size = os.fstat(fd).st_size
    if size <= since:
        return None
    most = min(LIVE_BYTES, size - since)
    return size, os.pread(fd, most, size - most)
