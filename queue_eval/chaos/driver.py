"""The driver of an attack: submits in rounds as a search does, and logs each job that it gathers.

``python -P -m queue_eval.chaos.driver FOLDER``, with its orders in ``FOLDER/driver.json``. It takes no care
of what earlier lives have done: it is a script that is simply run again.

``driver.log`` has one line for each beginning, each gathered job, and the end of a life that reached its end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from queue_eval import Evaluator, Job
from queue_eval.chaos import workload
from queue_eval.errors import ServerUnreachableError

CAMPAIGN = "chaos"
NOBODY_THERE = 69
"""Exit status of a life that found no server when it began."""

RUN_FUNCTION = "queue_eval.chaos.workload:run"
LOG = "driver.log"
ORDERS = "driver.json"

_BATCH = 10


@dataclass(frozen=True)
class Orders:
    """What the driver is told."""

    method: str
    method_kwargs: dict[str, Any]
    evaluations: int
    seed: int
    window: int
    """Jobs outstanding at a time, about."""
    only_short: bool

    def write(self, folder: Path) -> None:
        (folder / ORDERS).write_text(json.dumps(asdict(self)), encoding="ascii")

    @classmethod
    def read(cls, folder: Path) -> Orders:
        return cls(**json.loads((folder / ORDERS).read_text(encoding="ascii")))


@dataclass(frozen=True, slots=True)
class Gathered:
    """A job as a life of the driver was given it."""

    life: int
    adopted: bool
    """It was given before this life had submitted it."""
    id: int
    x: int
    state: str
    cause: str
    token: str
    digest: str
    """Of the value in its result."""


@dataclass(frozen=True, slots=True)
class DriverLog:
    """What all lives have logged."""

    gathered: Sequence[Gathered]
    lives: int
    has_ended: bool
    """Whether the last life reached its end."""


def digest(value: str) -> str:
    return blake2b(value.encode(), digest_size=8).hexdigest()


def read_log(folder: Path) -> DriverLog:
    """What the driver has logged. A line that a dying life has not finished is no line."""
    gathered: list[Gathered] = []
    lives, has_ended = 0, False
    path = folder / LOG
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        said = json.loads(line)
        if said == "begin":
            lives, has_ended = lives + 1, False
        elif said == "end":
            has_ended = True
        else:
            gathered.append(Gathered(lives, *said))
    return DriverLog(gathered, lives, has_ended)


class Driver:
    """One life."""

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
        configs = [one.config for one in planned]
        with Evaluator.create(RUN_FUNCTION, orders.method, orders.method_kwargs) as evaluator:
            sent = 0
            while sent < len(configs) or evaluator.num_outstanding:
                while sent < len(configs) and evaluator.num_outstanding < orders.window:
                    batch = configs[sent : sent + _BATCH]
                    # Some rounds are urgent, some are for later.
                    number = sent // _BATCH
                    priority, delay = int(number % 5 == 4), 0.3 * (number % 7 == 6)
                    evaluator.submit(batch, priority=priority, delay=delay)
                    sent += len(batch)
                for job in evaluator.gather("BATCH", size=1):
                    self._note([job.config["x"] >= sent, *_told(job)])
            evaluator.dump_evals(log_dir=str(self._folder))
        self._note("end")

    def _note(self, said: Any) -> None:
        os.write(self._log, (json.dumps(said) + "\n").encode("ascii"))


def _told(job: Job) -> list[Any]:
    succeeded = isinstance(job.result, dict)
    token = job.result["token"] if succeeded else ""
    value = digest(job.result["value"]) if succeeded else ""
    return [job.id, job.config["x"], job.state.value, job.cause or "", token, value]


if __name__ == "__main__":
    try:
        Driver(Path(sys.argv[1])).run()
    except ServerUnreachableError:
        # Who opens a campaign is told soon that the server is away, and comes again.
        sys.exit(NOBODY_THERE)
