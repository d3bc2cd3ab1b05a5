"""What the log is told of a server that is away: once, whoever meets it, and swarms of outages seldom."""

from __future__ import annotations

import logging
import threading
import time

from queue_eval.transport.error_kinds import hindrance, reason
from queue_eval.transport.nodes import PACE_S, Nodes

_QUIET_S = 10.0
"""After an outage was told of, another one is only told of when it lasts."""

_LASTING_S = 2.0


class Outage:
    """Shared by all that call one server from one process, so that they do not all say the same.

    Whoever meets an error says so at every attempt (`begin`), and when it has a reply after all (`end`).
    `has_served`: whether any of them has ever had a reply. `nodes`: those of a cluster that are away.
    `pace_s`: the longest pause between two tries.
    """

    def __init__(self, log: logging.Logger, pace_s: float = PACE_S) -> None:
        self.has_served = False
        self.pace_s = pace_s
        self.nodes = Nodes(log, pace_s)
        self._log = log
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told: str | None = None
        self._quiet_until = 0.0
        self._untold = 0

    def begin(self, error: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if now < self._quiet_until and now - self._since < _LASTING_S:
                return
            # A connection breaks in many ways, which all mean the same.
            why = hindrance(error) or "away"
            if why == self._told:
                return
            self._told = why
            self._quiet_until = now + _QUIET_S
            words = f"away ({reason(error)})" if why == "away" else f"doing nothing for now ({why})"
            self._log.warning("server is %s; waiting for it", words)

    def end(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                return  # somebody else has noticed before
            away_s, self._since = now - self._since, None
            if self._told is None:
                self._untold += 1
                return
            self._told, self._quiet_until = None, now + _QUIET_S
            more = f", and after {self._untold} short breaks before" if self._untold else ""
            self._untold = 0
            self._log.warning("server is back after %.1f s%s", away_s, more)
