"""What the evaluations of an attack tell while they run, and are told, and the log that they write of it.

They report, a part of them save checkpoints, and a part look whether they are to stop. Each execution adds
lines to ``<folder>/inside.log``, each in one write, independent of any server. A line is a JSON list:
[what, token, time, ...], with

    begin      x, id, attempt, worker, looks, floods    before anything else is asked
    found      checkpoint, notice     at its beginning; the notice is what `stop_requested` shows
    report     n                      it has made n reports
    refused    error                  a report was refused: no more are made
    saving     save                   a checkpoint is written, and not complete yet
    saved      save                   its `save_checkpoint` has returned
    told       notice                 `stop_requested` shows this for the first time
    give-back                         it gives itself back
    left                              it has told all

A line stays in the file, whichever process dies after the write. `token` is the token of the side log.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import queue_eval
from queue_eval.chaos import workload
from queue_eval.errors import AttemptEndedError

if TYPE_CHECKING:
    from queue_eval.runtime.current_job import CurrentJob

INSIDE_LOG = "inside.log"

GONE = "gone"

FLOOD = 1500
"""How many reports come at once from an evaluation that floods: more than a job may have waiting."""

_FLOOD_LINE_EVERY = 250
_REPORTS_PER_S = 12
_MAX_SPACED_REPORTS = 30
_LOOKS_PER_S = 20
_FACTS, _BYTES = "facts.json", "bytes"
_CHUNKS = 8


@dataclass(frozen=True)
class Orders:
    """What an evaluation tells, beside its result."""

    reports: int
    """Spread over its time."""
    saves: tuple[int, ...]
    """After which of these reports it saves a checkpoint."""
    floods: bool
    """Whether it makes FLOOD more reports at once, in the middle."""
    looks: bool
    """Whether it looks at `stop_requested`; told to stop, it returns."""
    gives_back: bool
    """Whether it gives itself back when its worker drains."""
    checkpoint_bytes: int


@dataclass
class Told:
    """What one execution has logged of itself."""

    token: str
    x: int
    id: int
    attempt: int
    worker: str
    looks: bool
    floods: bool
    began_at: float
    found_at: float | None = None
    """When it had looked for a checkpoint; None if it died before that."""
    found: dict[str, Any] | None = None
    """The checkpoint that it found: see `read_checkpoint`."""
    first_notice: str | None = None
    reports: list[tuple[float, int]] = field(default_factory=list)
    """(when, how many had been made until then)"""
    saving: dict[int, float] = field(default_factory=dict)
    saved: dict[int, float] = field(default_factory=dict)
    """When each save was begun to be completed, and when it had returned."""
    notices: dict[str, float] = field(default_factory=dict)
    gave_back_at: float | None = None
    has_left: bool = False
    """Whether it has told all."""
    last_at: float = 0.0
    """The time of its last line."""

    @property
    def run(self) -> int:
        return run_of(self.token)

    @property
    def made(self) -> int:
        """How many reports it has made, at least."""
        return self.reports[-1][1] if self.reports else 0


def orders_of(config: dict[str, Any]) -> Orders:
    """The orders of a config, which are the same for each execution."""
    kind, seconds = config["kind"], min(config["seconds"], workload.TIME_LIMIT_S)
    dice = random.Random(f"inside {config['x']} {kind} {config['seconds']}")
    reports = min(_MAX_SPACED_REPORTS, dice.randint(1, 3) + int(seconds * _REPORTS_PER_S))
    is_long = kind in ("long", "train", "hang")
    can_save = is_long or kind in ("flaky", "mortal", "bad", "poison", "gil") or dice.random() < 0.15
    saves = sorted(dice.sample(range(1, reports + 1), min(reports, dice.randint(1, 5 if is_long else 1))))
    succeeds = workload.KINDS[kind].outcome == "succeeded"
    return Orders(
        reports=reports,
        saves=tuple(saves) if can_save else (),
        floods=is_long and dice.random() < 0.2,
        looks=succeeds and (is_long or dice.random() < 0.5),
        gives_back=dice.random() < 0.5,
        checkpoint_bytes=dice.choice((100, 5_000, 100_000, 500_000)),
    )


def run_of(token: str) -> int:
    """The number by which the reports of an execution name it."""
    return int(token[:12], 16)


def run(config: dict[str, Any]) -> dict[str, str]:
    """The run function."""
    return workload.run(config, _work)


def _work(config: dict[str, Any], token: str) -> None:
    job = queue_eval.current_job()
    if job.attempt:
        _Execution(config, token, job).work()
    else:  # nobody listens
        workload.pass_time(config, token)


class _Execution:
    def __init__(self, config: dict[str, Any], token: str, job: CurrentJob) -> None:
        self._config = config
        self._token = token
        self._orders = orders_of(config)
        self._job = job
        self._made = 0
        self._save = 0
        self._seen: set[str] = set()
        self._is_refused = False

    def work(self) -> None:
        job, orders = self._job, self._orders
        self._note(
            "begin", self._config["x"], job.id, job.attempt, job.worker, orders.looks, orders.floods
        )
        newest = job.checkpoint
        found = None if newest is None else read_checkpoint(newest)
        self._note("found", found, job.stop_requested if orders.looks else None)
        pause_s = self._config["seconds"] / orders.reports
        for number in range(1, orders.reports + 1):
            self._wait(pause_s)
            self._report(number)
            if orders.floods and number == (orders.reports + 1) // 2:
                self._flood()
            if number in orders.saves:
                self._save_checkpoint()
            if self._is_to_stop():
                break
        self._note("left")

    def _wait(self, seconds: float) -> None:
        if not self._orders.looks:
            workload.wait(self._config, seconds)
            return
        until = time.monotonic() + seconds
        while not self._is_to_stop() and (left_s := until - time.monotonic()) > 0:
            workload.wait(self._config, min(left_s, 1 / _LOOKS_PER_S))

    def _report(self, number: int, *, notes: bool = True) -> None:
        if self._is_refused:
            return
        values = {
            "job": self._config["x"], "attempt": self._job.attempt, "run": run_of(self._token),
            "loss": float("nan") if number % 7 == 0 else 1 / number,
        }  # fmt: skip
        try:
            self._job.report(self._made + 1, n=self._made + 1, **values)
        except AttemptEndedError as error:
            self._is_refused = True
            self._note("refused", str(error))
            return
        self._made += 1
        if notes:
            self._note("report", self._made)

    def _flood(self) -> None:
        for number in range(FLOOD):
            self._report(number + 1, notes=number % _FLOOD_LINE_EVERY == _FLOOD_LINE_EVERY - 1)

    def _save_checkpoint(self) -> None:
        self._save += 1
        if self._save == 3:
            self._spoil()
        with self._job.save_checkpoint() as folder:
            self._write(folder, self._save)
            self._note("saving", self._save)
        self._note("saved", self._save)

    def _spoil(self) -> None:
        """A save that fails: nobody must find it."""
        try:
            with self._job.save_checkpoint() as folder:
                self._write(folder, 0)
                raise _SpoiltError
        except _SpoiltError:
            pass

    def _write(self, folder: Path, save: int) -> None:
        data = random.Random(f"{self._token} {save}").randbytes(self._orders.checkpoint_bytes)
        facts = {
            "x": self._config["x"], "token": self._token, "attempt": self._job.attempt, "save": save,
            "sum": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        (folder / _FACTS).write_text(json.dumps(facts))
        step = len(data) // _CHUNKS + 1
        with (folder / _BYTES).open("wb") as file:
            for at in range(0, len(data), step):
                file.write(data[at : at + step])

    def _is_to_stop(self) -> bool:
        if not self._orders.looks:
            return False
        notice = self._job.stop_requested
        if notice is not None and notice not in self._seen:
            self._seen.add(notice)
            self._note("told", notice)
            if notice == "drain" and self._orders.gives_back:
                self._save_checkpoint()
                self._note("give-back")
                self._job.give_back("the worker drains")
        return notice == "stop"

    def _note(self, what: str, *rest: Any) -> None:
        line = json.dumps([what, self._token, round(time.time(), 6), *rest]) + "\n"
        workload.append(f"{self._config['folder']}/{INSIDE_LOG}", line.encode())


class _SpoiltError(Exception):
    pass


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: x, token, attempt, save; with "wrong", if it is not whole.

    {"wrong": GONE} when it was removed meanwhile.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
        if hashlib.sha256((folder / _BYTES).read_bytes()).hexdigest() != facts.pop("sum"):
            facts["wrong"] = "its bytes are others"
    except (OSError, ValueError, KeyError) as error:
        return {"wrong": repr(error) if folder.exists() else GONE}
    return facts


def read_inside_log(folder: Path) -> list[Told]:
    """What each execution has logged, in the order of their beginnings."""
    path = folder / INSIDE_LOG
    told: dict[str, Told] = {}
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        what, token, at, *rest = json.loads(line)
        if what == "begin":
            x, job, attempt, worker, looks, floods = rest
            told[token] = Told(token, x, job, attempt, worker, looks, floods, at)
        one = told[token]
        one.last_at = at
        if what in _ADD:
            _ADD[what](one, at, *rest)
    return list(told.values())


def _add_found(told: Told, at: float, found: dict[str, Any] | None, notice: str | None) -> None:
    told.found_at, told.found, told.first_notice = at, found, notice
    if notice is not None:
        told.notices.setdefault(notice, at)


def _add_left(told: Told, _: float) -> None:
    told.has_left = True


def _add_give_back(told: Told, at: float) -> None:
    told.gave_back_at = at


_ADD: dict[str, Callable[..., Any]] = {
    "found": _add_found,
    "report": lambda told, at, made: told.reports.append((at, made)),
    "saving": lambda told, at, save: told.saving.setdefault(save, at),
    "saved": lambda told, at, save: told.saved.setdefault(save, at),
    "told": lambda told, at, notice: told.notices.setdefault(notice, at),
    "give-back": _add_give_back,
    "left": _add_left,
}
