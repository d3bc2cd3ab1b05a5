"""Measures how much memory processes use, with all that they have started."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

import psutil

_MIN_PAUSE_S = 0.5

_PAUSE_FACTOR = 20
"""The pause is at least so many times as long as the measurement: it then costs at most 5 % of the time."""


class Gauge:
    """Measures the RSS of process trees; if that exceeds `limit` and a tree has several processes, its
    PSS."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._due_at = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    def measure(self, roots: Iterable[int]) -> dict[int, int]:
        """Bytes in use by each of these processes and their descendants."""
        began_at = time.monotonic()
        children: defaultdict[int, list[psutil.Process]] = defaultdict(list)
        by_pid: dict[int, psutil.Process] = {}
        for process in psutil.process_iter(["ppid"]):
            by_pid[process.pid] = process
            children[process.info["ppid"]].append(process)
        used = {root: self._used(by_pid[root], children) for root in roots if root in by_pid}
        now = time.monotonic()
        self._due_at = now + max(_MIN_PAUSE_S, _PAUSE_FACTOR * (now - began_at))
        return used

    def _used(self, root: psutil.Process, children: dict[int, list[psutil.Process]]) -> int:
        family = [root]
        for process in family:
            family += children.get(process.pid, ())
        rss = sum(_rss(process) for process in family)
        # RSS counts memory twice that a fork shares with its parent. PSS does not, but takes long.
        if rss > self.limit and len(family) > 1:
            return sum(_pss(process) for process in family)
        return rss


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # the process has just ended
        return 0


def _pss(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.AccessDenied:
        return _rss(process)
    except psutil.Error:
        return 0
