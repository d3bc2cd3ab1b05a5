"""SIGTERM and Ctrl-C: the first drains, the second stops now."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Signals:
    """Counts the requests to end; installed in the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self._raised = threading.Event()

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def request(self) -> None:
        """As if a signal had come."""
        self.count += 1
        self.wake()

    def wake(self) -> None:
        """Make `wait` return."""
        self._raised.set()

    def wait(self, timeout_s: float) -> None:
        """Return at the next request, or after `timeout_s`."""
        self._raised.wait(timeout_s)
        self._raised.clear()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
