"""SIGTERM and Ctrl-C: the first drains, the second stops now."""

from __future__ import annotations

import contextlib
import queue
import signal
from types import FrameType


class Signals:
    """Knows how urgently the worker is to end; installed in the main thread."""

    def __init__(self) -> None:
        self._count = 0
        self._is_drain_asked = False
        # The one thing that a signal handler may use while the thread it interrupts uses it, too.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def wants_drain(self) -> bool:
        return self._is_drain_asked or self._count >= 1

    @property
    def wants_stop(self) -> bool:
        return self._count >= 2

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def drain(self) -> None:
        """Ask for a drain, for another reason than a signal: the first signal then stops nothing yet."""
        self._is_drain_asked = True
        self.wake()

    def wake(self) -> None:
        """Make `wait` return."""
        self._bell.put(None)

    def wait(self, timeout_s: float) -> None:
        """Return at the next request, or after `timeout_s`."""
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=timeout_s)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self.wake()
