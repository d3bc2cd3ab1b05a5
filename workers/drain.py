"""Computes when a drain must be over: what still runs then is given back, before it is killed.

=============================  ======================================================================
what ends the worker           what still runs is given back
=============================  ======================================================================
an end that is known           5 s before it (`END_MARGIN_S`)
SIGTERM in a batch job         after 20 s: Slurm sends SIGKILL 30 s after it (its KillWait)
SIGUSR1, SIGUSR2               after 50 s: Grid Engine sends SIGUSR2 60 s before SIGKILL
by hand (Ctrl-C, SIGHUP, …)    never: it finishes
=============================  ======================================================================

`--drain-timeout` takes the place of all but the first.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

END_MARGIN_S = 5.0
"""How long before the known end of the worker jobs are given back."""

TERM_S = 20.0
"""How long after SIGTERM, in a batch job."""

WARNING_S = 50.0
"""How long after SIGUSR1 or SIGUSR2."""

_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)


def drain_deadline(
    received: Mapping[signal.Signals, float], *, drained_at: float, ends_at: float | None, is_batch: bool,
    timeout_s: float | None,
) -> float | None:  # fmt: skip
    """When what still runs is to be given back (monotonic, s); None: never.

    `received`: when each stop signal came; `drained_at`: when the drain began; `ends_at`: the end of the
    worker, with its margin, where it is known; `is_batch`: whether SIGKILL follows SIGTERM; `timeout_s`: the
    user's `--drain-timeout`.
    """
    deadlines = [] if ends_at is None else [ends_at]
    if timeout_s is not None:
        deadlines.append(drained_at + timeout_s)
    else:
        if is_batch and signal.SIGTERM in received:
            deadlines.append(received[signal.SIGTERM] + TERM_S)
        if ends_at is None:
            deadlines += [received[number] + WARNING_S for number in _WARNINGS if number in received]
    return min(deadlines, default=None)


def notice_s(limit_s: float, asked_s: float | None) -> float:
    """How long a worker that ends `limit_s` after its start drains before it gives back what still runs.

    `asked_s`: the user's `--notice`. By default it drains a tenth of its time before its end, but at least
    10 s, at most 60 s, and never more than half of it.
    """
    if asked_s is not None:
        return asked_s
    return max(min(2 * END_MARGIN_S, 0.5 * limit_s), min(60.0, 0.1 * limit_s)) - end_margin_s(limit_s)


def end_margin_s(limit_s: float) -> float:
    """How long before its end a worker that ends `limit_s` after its start gives back what still runs."""
    return min(END_MARGIN_S, limit_s / 4)
