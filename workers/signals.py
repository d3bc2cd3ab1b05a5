"""The reasons for which a worker ends: stop signals, and requests without a signal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from types import FrameType
from typing import Any

from queue_eval.runtime.stop_signals import STOP_SIGNALS

ONE_S = 2.0
"""Signals within so long count as one: a batch system sends SIGTERM twice within a tenth of a second."""

_ALWAYS_HANDLED = (signal.SIGTERM, signal.SIGINT)
"""A worker can always be asked to drain, also where a script started it with `&`, which ignores SIGINT."""

DOUBT_S = 0.25
"""A batch system signals one process of a job after the other: a child may have died of it so long before
the worker gets its own signal."""

STOPPED_S = 30.0
"""An error or a death within so long after a signal is taken to come from it."""


class Signals:
    """Knows how urgently the worker is to end, and why: the first stop signal drains, a second one stops now.

    Installed in the main thread; `explain` and `reason` may be called in any.
    """

    def __init__(self) -> None:
        self.received: dict[signal.Signals, float] = {}
        """When each stop signal came first (monotonic, s)."""
        self._heard_at: deque[float] = deque(maxlen=16)
        self._counted_at: list[float] = []
        self._request: str | None = None
        # A pipe: Python runs a handler only when the main thread runs. A signal that came just before that
        # began to wait for a lock, or to another thread, would not end the wait. A byte in the pipe does.
        self._bell: tuple[int, int] | None = None
        self._before: dict[signal.Signals, Any] = {}

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
        """Whether a stop signal may be why an attempt failed or died at this moment (monotonic, s): the
        signal was sent to the worker and all its descendants."""
        return any(at - DOUBT_S <= ended_at <= at + STOPPED_S for at in tuple(self._heard_at))

    def install(self) -> None:
        """Handle the stop signals from now on, until `uninstall` or `close`."""
        self._bell = os.pipe()
        for end in self._bell:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._bell[1], warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # A signal that was ignored when the worker started stays ignored, as nohup wants it for SIGHUP.
            before = signal.getsignal(number)
            if number in _ALWAYS_HANDLED or before is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
                self._before[number] = before

    def uninstall(self) -> None:
        """Restore the handlers from before `install`. Signals that have come until then are known."""
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(-1)
        for end in self._bell or ():
            os.close(end)
        self._bell = None

    def close(self) -> None:
        """Ignore all stop signals from now on, for a process that is about to end.

        At its end Python restores the default for signals that it handles, and a signal that comes then would
        kill a worker that has done all its work. Python leaves ignored signals alone.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def drain(self, reason: str) -> None:
        """Ask for a drain without a signal. The first signal after it does not stop the worker yet."""
        if self._request is None:
            self._request = reason
        self.wake()

    def wake(self) -> None:
        """Make `wait` return."""
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
                os.write(self._bell[1], b"\0")

    def wait(self, timeout_s: float) -> None:
        """Return at the next request or signal, or after `timeout_s`. Assumes: `install` was called."""
        assert self._bell is not None
        poll = select.poll()
        poll.register(self._bell[0], select.POLLIN)
        if poll.poll(timeout_s * 1000):
            os.read(self._bell[0], 4096)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        self._heard_at.append(now)
        self.received.setdefault(signal.Signals(number), now)
        if not self._counted_at or now - self._counted_at[-1] >= ONE_S:
            self._counted_at.append(now)
        self.wake()
