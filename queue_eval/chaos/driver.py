"""The driver of an attack: submits in rounds as a search does, and logs each job that it gathers.

``python -P -m queue_eval.chaos.driver FOLDER``, with its orders in ``FOLDER/driver.json``. It does not
consider what earlier lives have done: it is a script that is simply run again.

``driver.log`` has one line for the beginning of each life, for each gathered job, and for the end of a life
that was not killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from queue_eval import Evaluator, Job, Report
from queue_eval.chaos import workload
from queue_eval.errors import ServerUnreachableError

CAMPAIGN = "chaos"
NOBODY_THERE = 69
"""Exit status of a life that found no server when it began."""

RUN_FUNCTION = "queue_eval.chaos.inside_work:run"
LOG = "driver.log"
ORDERS = "driver.json"

_BATCH = 10

_STOPPED_EVERY, _STOPPED_AT = 7, 2
"""Of so many jobs one is stopped, at its report of this step."""


@dataclass(frozen=True)
class Orders:
    """The orders of the driver."""

    method: str
    method_kwargs: dict[str, Any]
    evaluations: int
    seed: int
    window: int
    """About how many jobs are outstanding at a time."""
    only_short: bool

    def write(self, folder: Path) -> None:
        (folder / ORDERS).write_text(json.dumps(asdict(self)), encoding="ascii")

    @classmethod
    def read(cls, folder: Path) -> Orders:
        return cls(**json.loads((folder / ORDERS).read_text(encoding="ascii")))


@dataclass(frozen=True, slots=True)
class Gathered:
    """A job as one life of the driver gathered it."""

    life: int
    adopted: bool
    """Whether it was gathered before this life had submitted it."""
    id: int
    x: int
    state: str
    cause: str
    token: str
    digest: str
    """Digest of the value in its result."""


@dataclass(frozen=True, slots=True)
class DriverLog:
    """The log of all lives."""

    gathered: Sequence[Gathered]
    lives: int
    has_ended: bool
    """Whether the last life reached its end."""
    wrong: Sequence[str] = ()
    """Reports that it was shown, and should not have been."""
    shown: Mapping[int, int] = field(default_factory=dict)
    """How many reports of each job the life was shown that has reached its end."""
    stops: Collection[int] = ()
    """The jobs that it may have asked to stop early."""
    stopped: Sequence[tuple[int, float, int]] = ()
    """The jobs that it has asked: id, when, and in which attempt or a later one."""


def digest(value: str) -> str:
    return blake2b(value.encode(), digest_size=8).hexdigest()


def read_log(folder: Path) -> DriverLog:
    """Read the driver's log. Each line is written at once, so that a dying life leaves no half line."""
    gathered: list[Gathered] = []
    notes: dict[str, list[Any]] = defaultdict(list)
    lives, has_ended = 0, False
    path = folder / LOG
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        event = json.loads(line)
        if event == "begin":
            lives, has_ended = lives + 1, False
        elif event == "end":
            has_ended = True
        elif isinstance(event, dict):
            ((name, value),) = event.items()
            notes[name].append(value)
        else:
            gathered.append(Gathered(lives, *event))
    shown = dict(notes["shown"][-1]) if notes["shown"] else {}
    stopped = [(job, at, attempt) for job, at, attempt in notes["stopped"]]
    return DriverLog(gathered, lives, has_ended, notes["wrong"], shown, set(notes["stops"]), stopped)


class Driver:
    """One life of the driver."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._orders = Orders.read(folder)
        self._log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def run(self) -> None:
        orders = self._orders
        self._note("begin")
        planned = workload.plan(
            orders.evaluations, orders.seed, self._folder, only_short=orders.only_short
        )
        configs = [evaluation.config for evaluation in planned]
        listener = Listener(self._note)
        kwargs = orders.method_kwargs | {"callbacks": [listener]}
        with Evaluator.create(RUN_FUNCTION, orders.method, kwargs) as evaluator:
            listener.evaluator = evaluator
            sent = 0
            while sent < len(configs) or evaluator.num_outstanding:
                while sent < len(configs) and evaluator.num_outstanding < orders.window:
                    batch = configs[sent : sent + _BATCH]
                    # Some rounds are urgent, some are delayed.
                    number = sent // _BATCH
                    priority, delay = int(number % 5 == 4), 0.3 * (number % 7 == 6)
                    evaluator.submit(batch, priority=priority, delay=delay)
                    sent += len(batch)
                for job in evaluator.gather("BATCH", size=1):
                    self._note([job.config["x"] >= sent, *_as_logged(job)])
            evaluator.dump_evals(log_dir=str(self._folder))
        self._note({"shown": list(listener.shown.items())})
        self._note("end")

    def _note(self, event: Any) -> None:
        os.write(self._log, (json.dumps(event) + "\n").encode("ascii"))


class Listener:
    """Is shown the reports of the jobs, checks that each is of its job, in order and new, and has some of the
    jobs stopped early."""

    def __init__(self, note: Callable[[Any], None]) -> None:
        self.evaluator: Evaluator | None = None
        self.shown: Counter[int] = Counter()
        """How many reports of each job."""
        self._note = note
        self._last: dict[int, tuple[int, float]] = {}

    def on_report(self, job: Job, report: Report) -> None:
        self.shown[job.id] += 1
        now, before = (report.attempt, report.values["n"]), self._last.get(job.id, (0, 0.0))
        is_own = report.values["job"] == job.config["x"] and report.values["attempt"] <= report.attempt
        if not is_own or report.values["n"] != report.step or now <= before:
            self._note({"wrong": f"job {job.id} was shown {report} behind {before}"})
        self._last[job.id] = now
        if job.config["x"] % _STOPPED_EVERY == 0 and report.step == _STOPPED_AT and self.evaluator:
            self._note({"stops": job.id})
            if self.evaluator.stop([job]):
                self._note({"stopped": [job.id, time.time(), report.attempt]})


def _as_logged(job: Job) -> list[Any]:
    succeeded = isinstance(job.result, dict)
    token = job.result["token"] if succeeded else ""
    value = digest(job.result["value"]) if succeeded else ""
    return [job.id, job.config["x"], job.state.value, "" if succeeded else job.cause or "", token, value]


if __name__ == "__main__":
    try:
        Driver(Path(sys.argv[1])).run()
    except ServerUnreachableError:
        # Opening a campaign fails soon when the server is away. The fleet starts this driver again.
        sys.exit(NOBODY_THERE)
