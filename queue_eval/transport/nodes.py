"""Remembers which nodes of a cluster are away, so that no caller waits for a node twice.

::

    a connection fails ──▶ suspected ──next use──▶ PING answers ──▶ forgotten
                                          │
                                          └─ no answer ──▶ away: every use fails at once,
                                                           the first after `pace_s` sends a PING

Campaigns on the other nodes must not wait for a node that is away. So the first call fails after one timeout,
and later calls to that node fail at once until it answers a PING.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.exceptions import ClusterError

from queue_eval.transport.error_kinds import REDIS_ERRORS, is_transient, reason

PACE_S = 2.0
"""The longest pause between two tries."""

_MIN_TIMEOUT_S, _MAX_TIMEOUT_S = 0.5, 1.0
"""Bounds of how long a PING may take."""


class NodeAway(ClusterError):  # noqa: N818 - of redis-py's kind; NodeAwayError is ours
    """Raised instead of asking a node that is known to be away. Nothing was sent."""


@dataclass
class _Absence:
    since: float
    ask_at: float = 0.0
    why: str = ""


class Nodes:
    """The nodes of a cluster that are suspected or away. All links of one process to the cluster share it.

    A node that has not answered a PING within `timeouts` (settings of a connection) is away. It is asked
    again `pace_s` later.
    Guarantees: one thread at a time waits for a PING. Other threads wait for it only if they want a node that
    is suspected, too.
    """

    def __init__(self, log: logging.Logger, pace_s: float = PACE_S) -> None:
        self._log = log
        self._pace_s = pace_s
        timeout_s = min(_MAX_TIMEOUT_S, max(_MIN_TIMEOUT_S, pace_s / 2))
        self.timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._absences: dict[str, _Absence] = {}

    def suspect(self, name: str) -> None:
        """Note that a connection to this node has failed: its next use asks whether it is there."""
        with self._lock:
            self._absences.setdefault(name, _Absence(time.monotonic()))

    def is_suspected(self, name: str) -> bool:
        with self._lock:
            return name in self._absences

    def check(self, name: str, probe: Callable[[], None]) -> None:
        """Raise NodeAway if this node is away. `probe` sends it a PING, and raises redis-py's errors."""
        if not self.is_suspected(name):
            return
        with self._probing:
            with self._lock:
                absence = self._absences.get(name)
            if absence is None:
                return
            if time.monotonic() < absence.ask_at:
                raise NodeAway(f"node {name} is away ({absence.why})")
            try:
                probe()
            except REDIS_ERRORS as error:
                if is_transient(error):
                    self._note(name, absence, error)
                    raise NodeAway(f"node {name} is away ({absence.why})") from error
                self._forget(name, absence)  # the node is there, and refuses us
                raise
            self._forget(name, absence)

    def _note(self, name: str, absence: _Absence, error: Exception) -> None:
        if not absence.why:
            self._log.warning(
                "node %s of the cluster is away (%s); what lies there waits for it", name, reason(error)
            )
        absence.why = reason(error)
        absence.ask_at = time.monotonic() + self._pace_s

    def _forget(self, name: str, absence: _Absence) -> None:
        with self._lock:
            self._absences.pop(name, None)
        if absence.why:
            away_s = time.monotonic() - absence.since
            self._log.warning("node %s of the cluster is back after %.1f s", name, away_s)
