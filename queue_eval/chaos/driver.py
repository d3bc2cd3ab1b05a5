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

RUN_FUNCTION = "queue_eval.chaos.inside_work:run"
LOG = "driver.log"
ORDERS = "driver.json"

_BATCH = 10


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


def digest(value: str) -> str:
    return blake2b(value.encode(), digest_size=8).hexdigest()


def read_log(folder: Path) -> DriverLog:
    """Read the driver's log. Each line is written at once, so that a dying life leaves no half line."""
    gathered: list[Gathered] = []
    lives, has_ended = 0, False
    path = folder / LOG
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        event = json.loads(line)
        if event == "begin":
            lives, has_ended = lives + 1, False
        elif event == "end":
            has_ended = True
        else:
            gathered.append(Gathered(lives, *event))
    return DriverLog(gathered, lives, has_ended)


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
        with Evaluator.create(RUN_FUNCTION, orders.method, orders.method_kwargs) as evaluator:
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
        self._note("end")

    def _note(self, event: Any) -> None:
        os.write(self._log, (json.dumps(event) + "\n").encode("ascii"))


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
