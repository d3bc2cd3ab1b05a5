"""Makes a process die at a named point between two steps of the protocol, for tests.

``QUEUE_EVAL_FAILPOINT=worker.after-lease`` kills each process that has this variable when it reaches the
point. ``worker.after-lease@3`` means the third time; ``worker.after-lease:stop`` stops the process (SIGSTOP)
instead. Without the variable a point costs one call that checks one name.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from dataclasses import dataclass, field

from queue_eval.errors import UsageError

VARIABLE = "QUEUE_EVAL_FAILPOINT"

SCRIPTS = (
    "attach", "cancel", "close", "enlist", "enqueue", "extend", "hire", "keep_summary", "loaded", "open",
    "pause", "purge", "reclaim", "release", "report", "rest", "retry", "settle", "snapshot", "stop", "tell",
    "total", "unlist",
)  # fmt: skip

POINTS = (
    # Every call to the server; then each script by its name, and the blocking reads.
    "server.before-call", "server.after-call",
    *(f"server.{when}-{script}" for script in SCRIPTS for when in ("before", "after")),
    "server.before-read", "server.after-read",
    "server.before-wake", "server.after-wake",
    # An attempt in a worker, between its lease and its settlement.
    "worker.after-lease", "worker.before-start", "worker.after-run",
    "spool.before-write", "spool.before-fsync", "spool.after-fsync", "spool.before-remove",
    "spool.before-deliver", "spool.after-deliver",
    "results.before-write", "results.before-fsync", "results.before-rename", "results.after-rename",
)  # fmt: skip

_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class _Armed:
    point: str
    occurrence: int
    action: signal.Signals
    passed: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def reach(self, point: str) -> None:
        if point == self.point and next(self.passed) == self.occurrence:
            os.kill(os.getpid(), self.action)


def reach(point: str) -> None:
    """Kill or stop this process, if `point` is the armed one."""
    if _armed is not None:
        _armed.reach(point)


def parse(text: str) -> _Armed:
    """The point and action in the variable's value. Raises UsageError."""
    match = re.fullmatch(r"([^@:]*)(?:@([1-9]\d*))?(?::(.*))?", text)
    action = (match[3] or "kill") if match else ""
    if match is None or action not in _ACTIONS:
        raise UsageError(f"{VARIABLE} is {text!r}; give POINT, POINT@TIMES, and :kill or :stop behind it")
    if match[1] not in POINTS:
        raise UsageError(
            f"{VARIABLE} names {match[1]!r}, which is no failpoint; give one of: {', '.join(POINTS)}"
        )
    return _Armed(match[1], int(match[2] or 1), _ACTIONS[action])


# Parsed at the import, so that a point that is not armed costs only a check.
_armed = parse(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
