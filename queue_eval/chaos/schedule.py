"""The schedule of an attack: which faults, when and for how long. The seed alone determines it.

`settings.VICTIMS` lists the kinds of faults.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from queue_eval.chaos.settings import Settings

CUT_MODES = ("refuse", "reset", "blackhole", "delay", "drop_reply", "cut_reply")

_LONG_FRACTION = 0.3
"""Which fraction of the faults last longer than a lease, among those that may."""

TURNS = ("first", "last", "between")
"""When the worker is sent the signal, among all processes that are sent it."""

_TWICE_FRACTION = 0.4
"""Which fraction of the drains is asked for twice, and of the stops of all processes comes twice."""

_MODES = {"cut": CUT_MODES, "term-all": TURNS}

_LULL_EVERY_FAULTS = 10
_LULL_S = 4.0
"""After so many faults there is a lull of so many seconds, in which idle workers can be noticed."""


@dataclass(frozen=True)
class Strike:
    """A fault to inject."""

    after_s: float
    """How long after the one before."""
    what: str
    """One of `settings.VICTIMS`."""
    victim: str
    pick: float
    """Which of several victims: 0 to 1."""
    lasts_s: float
    """How long until the victim is started again, continued or connected again."""
    mode: str = ""
    """For a cut: one of CUT_MODES. For a stop of all processes: one of TURNS."""
    amount: float = 0.0
    """0 to 1. For a cut: how long the delay is, or after how much the mode sets in. For a stop of all
    processes: how long the pause before and after the worker's turn is. For a clock: how far it is set
    back."""
    same_name: bool = False
    """For a killed worker: whether it is started again under its name."""
    twice: bool = False
    """For a drain: whether it is asked for again, which stops running attempts. For a stop of all processes:
    whether the signal comes again at once, which does not stop them."""


def strikes(settings: Settings) -> Iterator[Strike]:
    """An endless sequence of faults: first one of each kind, then random ones."""
    dice = random.Random(f"faults {settings.seed}")
    first = dice.sample(settings.faults, len(settings.faults))
    for number in itertools.count(1):
        if not settings.faults:
            return
        what, victim = first.pop() if first else dice.choice(settings.faults)
        lull_s = _LULL_S * (number % _LULL_EVERY_FAULTS == 0)
        yield Strike(
            after_s=dice.expovariate(1 / settings.fault_every_s) + lull_s,
            what=what,
            victim=victim,
            pick=dice.random(),
            lasts_s=_lasting(dice, what, victim, settings.lease_s),
            mode=dice.choice(_MODES[what]) if what in _MODES else "",
            amount=dice.random(),
            same_name=dice.random() < 0.5,
            twice=what in ("drain", "term-all") and dice.random() < _TWICE_FRACTION,
        )


def _lasting(dice: random.Random, what: str, victim: str, lease_s: float) -> float:
    if victim == "child" or what in ("clock-back", "second-server"):
        return 0.0
    if (what, victim) == ("kill", "driver"):
        return dice.uniform(0, 1)
    if what in ("drain", "term-all"):
        return dice.uniform(0, 0.5)
    if dice.random() < _LONG_FRACTION:
        return lease_s * dice.uniform(1.1, 1.6)
    if what == "kill":
        return dice.uniform(0, min(3.0, lease_s) if victim == "server" else 0.5)
    return dice.uniform(0.1, 0.6 * lease_s)
