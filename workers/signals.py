"""What tells a worker to end: stop signals, and requests that are none."""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from collections import deque
from types import FrameType

from queue_eval.stop_signals import STOP_SIGNALS

ONE_S = 2.0
"""Signals within so long are one: a batch system sends SIGTERM twice within a tenth of a second."""

_ALWAYS_HANDLED = (signal.SIGTERM, signal.SIGINT)

DOUBT_S = 0.25
"""A batch system signals one process of a job after the other: what died of it may be known so long before
the worker's own signal."""

STOPPED_S = 30.0
"""So long after it, an error or a death is taken to come of it."""


class Signals:
    """Knows how urgently the worker is to end, and why: the first stop signal drains, a second one stops now.

    Installed in the main thread; `explain` and `reason` may be asked in any.
    """

    def __init__(self) -> None:
        self.received: dict[signal.Signals, float] = {}
        """When each stop signal came first (monotonic, s)."""
        self._heard_at: deque[float] = deque(maxlen=16)
        self._counted_at: list[float] = []
        self._request: str | None = None
        # The one thing that a signal handler may use while the thread it interrupts uses it, too.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def wants_drain(self) -> bool:
        return self._request is not None or bool(self._counted_at)

    @property
    def wants_stop(self) -> bool:
        return len(self._counted_at) >= 2

    @property
    def reason(self) -> str:
        """Why the worker ends, in a few words."""
        names = ", ".join(number.name for number in tuple(self.received))
        return "; ".join(filter(None, (self._request, names)))

    def explain(self, ended_at: float) -> bool:
        """Whether an attempt that failed or died at this moment (monotonic, s) may owe it to a stop signal,
        which the worker and all its descendants were sent."""
        return any(at - DOUBT_S <= ended_at <= at + STOPPED_S for at in tuple(self._heard_at))

    def install(self) -> None:
        for number in STOP_SIGNALS:
            # One that was ignored when the worker started stays ignored, as nohup wants it for SIGHUP.
            if number in _ALWAYS_HANDLED or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def drain(self, reason: str) -> None:
        """Ask for a drain without a signal: the first signal then stops nothing yet."""
        if self._request is None:
            self._request = reason
        self.wake()

    def wake(self) -> None:
        """Make `wait` return."""
        self._bell.put(None)

    def wait(self, timeout_s: float) -> None:
        """Return at the next request, or after `timeout_s`."""
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=timeout_s)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        self._heard_at.append(now)
        self.received.setdefault(signal.Signals(number), now)
        if not self._counted_at or now - self._counted_at[-1] >= ONE_S:
            self._counted_at.append(now)
        self.wake()
