"""The settings of an attack. They are checked before anything starts."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from queue_eval.chaos.clock import libfaketime
from queue_eval.errors import MethodUnavailableError, UsageError
from queue_eval.model.states import Method

VICTIMS = {
    "kill": ("driver", "worker", "child", "server"),
    "drain": ("worker",),
    "term-all": ("worker",),
    "pause": ("worker", "driver", "server"),
    "cut": ("network",),
    "clock-back": ("server",),
    "second-server": ("server",),
}
"""The kinds of faults, each with its possible victims. docs/faults.md says what each kind does. Each has a
command line option of its name (`queue_eval.cli.chaos`)."""

NONE = "none"

_MIN_LEASE_S = 1.0
_FORWARDING = (Method.RAY, Method.RQ)


@dataclass(frozen=True)
class Settings:
    """The settings of one attack. `faults` are pairs like ("kill", "worker")."""

    evaluations: int
    method: Method
    workers: int
    slots: int
    """Slots of each worker."""
    faults: tuple[tuple[str, str], ...]
    seed: int
    attack_s: float
    """For how long faults are injected at most. Then the campaign must end without faults."""
    fault_every_s: float
    """Mean time from one fault to the next."""
    lease_s: float
    only_short: bool = False
    """Whether all evaluations take milliseconds only."""

    @property
    def is_forwarding(self) -> bool:
        return self.method in _FORWARDING

    @property
    def total_slots(self) -> int:
        return self.workers * self.slots

    def has(self, what: str) -> bool:
        """Whether some fault is of this kind: one of `VICTIMS`."""
        return any(kind == what for kind, _ in self.faults)

    def command(self) -> str:
        """The command line that repeats this attack."""
        words = [
            "queue-eval", "chaos", "--evaluations", self.evaluations, "--method", self.method.value,
            "--workers", self.workers, "--slots", self.slots,
        ]  # fmt: skip
        for kind in VICTIMS:
            words += [f"--{kind}", ",".join(victim for what, victim in self.faults if what == kind) or NONE]
        words += [
            "--seed", self.seed, "--minutes", f"{self.attack_s / 60:g}",
            "--fault-every", f"{self.fault_every_s:g}", "--lease", f"{self.lease_s:g}",
        ]  # fmt: skip
        words += ["--short"] * self.only_short
        return shlex.join(map(str, words))


def checked(
    *, evaluations: int, method: str, workers: int, slots: int, faults: Mapping[str, str], seed: int,
    minutes: float, fault_every_s: float, lease_s: float, only_short: bool = False,
) -> Settings:  # fmt: skip
    """Settings from a user's options. `faults`: for each kind, victims separated by commas, or "none".

    Raises UsageError for options that make no sense, and MethodUnavailableError if a package is missing.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise UsageError(f"--minutes {minutes:g} is no time to attack for; give a number above 0, like 0.5")
    for option, seconds in (("--lease", lease_s), ("--fault-every", fault_every_s)):
        if not math.isfinite(seconds):
            raise UsageError(f"{option} {seconds:g} never comes to its end; give a duration like 4s")
    if lease_s < _MIN_LEASE_S:
        raise UsageError(
            f"a lease of {lease_s:g} s is shorter than what a busy machine may take; give at least 1s"
        )
    if fault_every_s < 0.05:
        raise UsageError(f"a fault every {fault_every_s:g} s is too often; give at least 50ms")
    chosen_faults = tuple(
        fault for kind, known in VICTIMS.items() for fault in _victims(kind, faults.get(kind, NONE), known)
    )
    if any(kind == "clock-back" for kind, _ in chosen_faults):
        libfaketime()  # raises if the library is missing
    chosen = Method(method)
    if chosen in _FORWARDING and find_spec(chosen.value) is None:
        raise MethodUnavailableError(
            f'the method "{chosen.value}" needs the package {chosen.value}; '
            f"install it with: pip install 'queue-eval[{chosen.value}]'"
        )
    return Settings(
        evaluations=evaluations, method=chosen, workers=workers, slots=slots, faults=chosen_faults, seed=seed,
        attack_s=60 * minutes, fault_every_s=fault_every_s, lease_s=lease_s,
        only_short=only_short,
    )  # fmt: skip


def _victims(what: str, text: str, known: Sequence[str]) -> list[tuple[str, str]]:
    given = [word.strip() for word in text.split(",")]
    if given == [NONE]:
        return []
    for victim in given:
        if victim not in known:
            raise UsageError(
                f"--{what} {victim!r} is not possible; choose among {', '.join(known)}, "
                f"separated by commas, or {NONE}"
            )
    return [(what, victim) for victim in dict.fromkeys(given)]
