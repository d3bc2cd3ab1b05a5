"""Logs that a server is away: once for all who meet it, and rarely when short outages follow each other."""

from __future__ import annotations

import logging
import threading
import time

from queue_eval.transport.error_kinds import hindrance, reason
from queue_eval.transport.nodes import PACE_S, Nodes

_QUIET_S = 10.0
"""For how long after a line in the log another outage is only logged when it lasts."""

_LASTING_S = 2.0
"""How long an outage lasts that is logged all the same."""


class Outage:
    """Logs one server's outages. All links of one process to it share it, so that each outage is logged once.

    A link calls `begin` after every try that failed, and `end` when it has a reply after all.
    `has_served`: whether any of them has ever had a reply. `nodes`: the nodes of a cluster that are away.
    `pace_s`: the longest pause between two tries.
    """

    def __init__(self, log: logging.Logger, pace_s: float = PACE_S) -> None:
        self.has_served = False
        self.pace_s = pace_s
        self.nodes = Nodes(log, pace_s)
        self._log = log
        self._lock = threading.Lock()
        self._since: float | None = None
        self._logged: str | None = None
        self._quiet_until = 0.0
        self._unlogged = 0

    def begin(self, error: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if now < self._quiet_until and now - self._since < _LASTING_S:
                return
            # A connection breaks in many ways, which all mean the same.
            why = hindrance(error) or "away"
            if why == self._logged:
                return
            self._logged = why
            self._quiet_until = now + _QUIET_S
            words = f"away ({reason(error)})" if why == "away" else f"doing nothing for now ({why})"
            self._log.warning("server is %s; waiting for it", words)

    def end(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                return  # another link has noticed before
            away_s, self._since = now - self._since, None
            if self._logged is None:
                self._unlogged += 1
                return
            self._logged, self._quiet_until = None, now + _QUIET_S
            more = f", and after {self._unlogged} short breaks before" if self._unlogged else ""
            self._unlogged = 0
            self._log.warning("server is back after %.1f s%s", away_s, more)
