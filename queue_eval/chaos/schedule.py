"""Which faults, when and for how long: all of it from the seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from queue_eval.chaos.settings import Settings

CUT_MODES = ("refuse", "reset", "blackhole", "delay", "drop_reply", "cut_reply")

_LONG = 0.3
"""How many of those faults that a lease may outlast last longer than a lease."""

TURNS = ("first", "last", "between")
"""When the worker's turn comes among the processes that are sent a signal."""

_TWICE = 0.4
"""How many of the drains are asked for once more, and how many of the stops of all processes come twice."""

_MODES = {"cut": CUT_MODES, "term-all": TURNS}

_LULL_EVERY = 10
_LULL_S = 4.0
"""Every so many faults there is a lull, in which it can be seen who has nothing to do."""


@dataclass(frozen=True)
class Strike:
    """A fault to be done."""

    after_s: float
    """Since the one before."""
    what: str
    """One of `settings.VICTIMS`."""
    victim: str
    pick: float
    """Which of several victims: 0 to 1."""
    lasts_s: float
    """Until the victim is started again, continued or connected again."""
    mode: str = ""
    """Of a cut: how. Of a stop of all processes: when the worker's turn comes."""
    amount: float = 0.0
    """Of a cut: the delay (s), or after how much the mode sets in. Of a stop of all processes: the
    pause before and after the worker's turn. Of a clock: how far it is set back. 0 to 1."""
    same_name: bool = False
    """Of a killed worker: whether it is started again under its name."""
    twice: bool = False
    """Of a drain: whether it is asked for once more, which stops what runs. Of a stop of all processes:
    whether the signal comes again at once, which does not."""


def strikes(settings: Settings) -> Iterator[Strike]:
    """Faults without end: first one of each kind, then whatever comes."""
    dice = random.Random(f"faults {settings.seed}")
    first = dice.sample(settings.faults, len(settings.faults))
    for number in itertools.count(1):
        if not settings.faults:
            return
        what, victim = first.pop() if first else dice.choice(settings.faults)
        yield Strike(
            after_s=dice.expovariate(1 / settings.fault_every_s) + _LULL_S * (number % _LULL_EVERY == 0),
            what=what,
            victim=victim,
            pick=dice.random(),
            lasts_s=_lasting(dice, what, victim, settings.lease_s),
            mode=dice.choice(_MODES[what]) if what in _MODES else "",
            amount=dice.random(),
            same_name=dice.random() < 0.5,
            twice=what in ("drain", "term-all") and dice.random() < _TWICE,
        )


def _lasting(dice: random.Random, what: str, victim: str, lease_s: float) -> float:
    if victim == "child" or what in ("clock-back", "second-server"):
        return 0.0
    if (what, victim) == ("kill", "driver"):
        return dice.uniform(0, 1)
    if what in ("drain", "term-all"):
        return dice.uniform(0, 0.5)
    if dice.random() < _LONG:
        return lease_s * dice.uniform(1.1, 1.6)
    if what == "kill":
        return dice.uniform(0, min(3.0, lease_s) if victim == "server" else 0.5)
    return dice.uniform(0.1, 0.6 * lease_s)
