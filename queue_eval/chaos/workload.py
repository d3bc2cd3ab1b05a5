"""The evaluations of an attack: seeded configs, the run function, and the log that it writes itself.

This module knows nothing of queue_eval, so that other systems can be given the same evaluations. It imports
the standard library only. In an attack they also report and save checkpoints: `inside_work`.

Every execution adds lines to ``<folder>/side.log``, each in one write, independent of any server::

    what  x  id  pid  time  token
    ----------------------------------------------------------------------------
    start                          the run function was entered
    end                            it returns a result, which has the token
    raise                          it raises
    die                            it kills its own process

A line stays in the file, whichever process dies after the write.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MAX_ATTEMPTS = 3
"""How many executions a job must be allowed when the run function raises or runs out of time."""

MAX_LOSSES = 3
"""How many executions of a job must be allowed to end with the death of their process."""

TIME_LIMIT_S = 4.0
"""The time limit to set. All evaluations but those that hang take less than half of it."""

RETRY_DELAY_S = 0.1

SIDE_LOG = "side.log"
BIG = 2**20

_MAX_SHORT_S = 0.020
_HANG_S = 5 * TIME_LIMIT_S

Outcome = Literal["succeeded", "error", "timeout", "lost"]


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation."""

    outcome: Outcome
    """How it ends when nothing interferes: `succeeded`, or failed for this cause."""
    share: float
    """The fraction of all evaluations that are of this kind; at least one is."""
    max_count: int | None
    """The limit on their number, for kinds that cost much time or memory."""
    seconds: tuple[float, float]
    """The range of their duration, log-uniformly distributed."""


KINDS: dict[str, Kind] = {
    "short": Kind("succeeded", 0.30, None, (0.010, 0.200)),
    "long": Kind("succeeded", 0.03, 300, (0.3, 1.5)),
    "train": Kind("succeeded", 0.05, 100, (1.0, 1.8)),  # outlives short leases, when its worker is frozen
    "big": Kind("succeeded", 0.005, 50, (0.001, 0.010)),  # returns 1 MiB
    "gil": Kind("succeeded", 0.01, 100, (0.1, 1.0)),  # holds the GIL
    "flaky": Kind("succeeded", 0.02, None, (0.001, 0.020)),  # raises on its first one or two executions
    "mortal": Kind("succeeded", 0.01, 100, (0.001, 0.020)),  # ends its process on its first execution
    "bad": Kind("error", 0.02, None, (0.001, 0.020)),  # always raises
    "poison": Kind("lost", 0.002, 20, (0.001, 0.020)),  # always kills its process
    "hang": Kind("timeout", 0.001, 10, (_HANG_S, _HANG_S)),  # outlasts its time limit
    "instant": Kind("succeeded", 1.0, None, (0.001, 0.010)),  # all others
}


@dataclass(frozen=True)
class Planned:
    """One evaluation, and the outcome that it must have."""

    config: dict[str, Any]
    """`x` is its number, from 0."""

    @property
    def x(self) -> int:
        return int(self.config["x"])

    @property
    def kind(self) -> str:
        return str(self.config["kind"])

    @property
    def outcome(self) -> Outcome:
        return KINDS[self.kind].outcome

    @property
    def own_executions(self) -> int:
        """How often it runs when nothing interferes, including declared retries and its own deaths."""
        times: int = self.config.get("times", 0)
        return {"bad": MAX_ATTEMPTS, "hang": MAX_ATTEMPTS, "poison": MAX_LOSSES}.get(self.kind, 1 + times)


@dataclass(frozen=True, slots=True)
class SideLine:
    """One line of the side log: an event of one execution."""

    what: Literal["start", "end", "raise", "die", "leave"]
    """It leaves when an exception ends it that is not its plan."""
    x: int
    id: int
    """The job's id; 0 if there is none."""
    pid: int
    at: float
    """Unix time (s)."""
    token: str
    """The token of this execution alone."""


def plan(evaluations: int, seed: int, folder: str | Path, *, only_short: bool = False) -> list[Planned]:
    """The evaluations of this seed, in the order in which to submit them; `folder` is for their logs.

    `only_short`: leave out those that take more than some milliseconds, so that workers prefetch many.
    """
    dice = random.Random(f"{seed} {evaluations}")
    kinds: list[str] = []
    for name, kind in KINDS.items():
        if only_short and kind.seconds[1] > _MAX_SHORT_S:
            continue
        wanted = max(1, round(evaluations * kind.share))
        wanted = wanted if kind.max_count is None else min(wanted, kind.max_count)
        kinds += [name] * min(wanted, evaluations - len(kinds))
    dice.shuffle(kinds)
    return [Planned(_config(x, kind, dice, str(folder))) for x, kind in enumerate(kinds)]


def _config(x: int, kind: str, dice: random.Random, folder: str) -> dict[str, Any]:
    low, high = KINDS[kind].seconds
    seconds = round(low * (high / low) ** dice.random(), 4)
    config = {"x": x, "kind": kind, "seconds": seconds, "folder": folder}
    if kind in ("flaky", "mortal"):
        config["times"] = dice.choice((1, MAX_ATTEMPTS - 1)) if kind == "flaky" else 1
    return config


def prepare(folder: Path) -> None:
    """Make the folder that the run function writes to."""
    (folder / "tally").mkdir(parents=True, exist_ok=True)


def value_of(config: dict[str, Any]) -> str:
    """The value in a result of this config, which is the same for each execution."""
    text = hashlib.sha256(str(config["x"]).encode()).hexdigest()
    return text * (BIG // len(text)) if config["kind"] == "big" else text


def pass_time(config: dict[str, Any], _: str) -> None:
    """Take as long as the config says."""
    wait(config, config["seconds"])


def wait(config: dict[str, Any], seconds: float) -> None:
    """Take so long, in the way of this kind of evaluation."""
    (_hold_gil if config["kind"] == "gil" else time.sleep)(seconds)


def run(config: dict[str, Any], work: Callable[[dict[str, Any], str], None] = pass_time) -> dict[str, str]:
    """The run function: does what its config says. The result has the token of this execution.

    `work` is called with the config and the token, and takes the time.
    """
    token = secrets.token_hex(8)

    def note(what: str) -> None:
        line = f"{what} {config['x']} {config.get('id', 0)} {os.getpid()} {time.time():.6f} {token}\n"
        append(f"{config['folder']}/{SIDE_LOG}", line.encode())

    note("start")
    try:
        work(config, token)
    except BaseException:  # it gives itself back, or a stop signal of Ray ends it: its process may live on
        note("leave")
        raise
    kind = config["kind"]
    if kind == "bad" or (kind == "flaky" and _tally(config) <= config["times"]):
        note("raise")
        raise ValueError(f"{kind} {config['x']}")
    if kind == "poison" or (kind == "mortal" and _tally(config) <= config["times"]):
        note("die")
        _DEATHS[config["x"] % len(_DEATHS)]()
    result = {"value": value_of(config), "token": token}
    note("end")
    return result


def read_side_log(folder: Path) -> Iterator[SideLine]:
    """All lines of the side log, in order."""
    path = folder / SIDE_LOG
    if not path.exists():
        return
    with path.open(encoding="ascii") as file:
        for line in file:
            what, x, id_, pid, at, token = line.split()
            yield SideLine(what, int(x), int(id_), int(pid), float(at), token)  # type: ignore[arg-type]


def append(path: str, data: bytes) -> int:
    """Append to a file in one write. Returns the offset at which the data ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, data)
        return os.lseek(handle, 0, os.SEEK_CUR)
    finally:
        os.close(handle)


def _tally(config: dict[str, Any]) -> int:
    """How many executions of this config have come this far, including this one. No two executions get the
    same number."""
    return append(f"{config['folder']}/tally/{config['x']}", b".")


def _hold_gil(seconds: float) -> None:
    # C code that is called through PyDLL does not release the GIL. Sleeping there uses no processor time.
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # until it arrives


_DEATHS: tuple[Callable[[], Any], ...] = (lambda: os._exit(3), _kill_self)
