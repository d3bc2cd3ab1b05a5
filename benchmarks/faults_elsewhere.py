"""The same evaluations under the same attack: queue_eval, RQ and Celery, one after the other.

The evaluations are those of ``queue-eval chaos``; what they did they have written down themselves.
Workers, processes that run an evaluation, and the server (append-only, fsync always) are killed with SIGKILL,
at moments that the seed decides, and started again. The driver is left alone: the others have none that could
go on.

    pip install -e '.[rivals]'
    python -m benchmarks.faults_elsewhere [--systems queue_eval,rq,celery] [--evaluations 2000] [--seed 7]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.broker import Broker
from benchmarks.processes import kill_marked, new_mark
from benchmarks.rivals import SYSTEMS, System
from queue_eval.chaos import workload
from queue_eval.chaos.workload import Planned, SideLine

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("worker", "child", "server")


class Workers:
    """The processes of one system's workers; one that dies is started again."""

    def __init__(self, commands: Sequence[list[str]], folder: Path, url: str) -> None:
        self._commands = commands
        self._mark = new_mark()
        self._environment = os.environ | {"RIVAL_URL": url, "PYTHONPATH": str(ROOT), self._mark: "1"}
        self._folder = folder
        self._over = threading.Event()
        self.processes = [self._start(command) for command in commands]
        self._thread = threading.Thread(target=self._mind)
        self._thread.start()

    def family(self, number: int) -> list[psutil.Process]:
        """One worker's process and all below it."""
        try:
            process = psutil.Process(self.processes[number].pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        # Also what a dead worker has left, which belongs to nobody now.
        kill_marked(self._mark)
        for process in self.processes:
            process.wait()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip

    def _mind(self) -> None:
        while not self._over.wait(0.2):
            for number, process in enumerate(self.processes):
                if process.poll() is not None:
                    self.processes[number] = self._start(self._commands[number])


@dataclass(frozen=True)
class Death:
    """A worker that was killed, and the processes that were its."""

    at: float
    pids: frozenset[int]


@dataclass
class Findings:
    system: str
    configuration: str
    evaluations: int
    seed: int
    faults: dict[str, int]
    seconds: float = 0.0
    lost: int = 0
    """Without an end when nothing had happened for the patience."""
    failed_wrongly: int = 0
    """Failed, though nothing but the attack ailed them."""
    ran_to_the_end_twice: int = 0
    poison: str = ""
    """How many of those that always kill their process have ended, of how many."""
    recovery_s: list[float] = field(default_factory=list)
    """From the death of a worker to the next execution of each evaluation that it had begun; sorted."""
    never_recovered: int = 0


class Attack(threading.Thread):
    """Kills something now and then until `over` is set or the time is up."""

    def __init__(
        self, server: Broker, workers: Workers, *,
        seed: int, minutes: float, every_s: float, kinds: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__()
        self._server, self._workers = server, workers
        self._dice = random.Random(seed)
        self._until = time.monotonic() + 60 * minutes
        self._every_s, self._kinds = every_s, kinds
        self.over = threading.Event()
        self.faults: Counter[str] = Counter()
        self.deaths: list[Death] = []

    def run(self) -> None:
        while time.monotonic() < self._until:
            if self.over.wait(self._dice.expovariate(1 / self._every_s)):
                return
            kind = self._dice.choice(self._kinds)
            if getattr(self, f"_kill_{kind}")():
                self.faults[kind] += 1

    def _kill_server(self) -> bool:
        self._server.kill()
        time.sleep(self._dice.uniform(0.0, 3.0))
        self._server.start()
        return True

    def _kill_worker(self) -> bool:
        family = self._workers.family(self._dice.randrange(len(self._workers.processes)))
        if not family:
            return False
        self.deaths.append(Death(time.time(), frozenset(one.pid for one in family)))
        family[0].kill()
        return True

    def _kill_child(self) -> bool:
        children = self._workers.family(self._dice.randrange(len(self._workers.processes)))[1:]
        if not children:
            return False
        try:
            self._dice.choice(children).kill()
        except psutil.NoSuchProcess:
            return False
        return True


def attack(name: str, options: argparse.Namespace) -> Findings:
    """Run the evaluations on one system, and look at what has become of them."""
    folder = Path(tempfile.mkdtemp(prefix="qe-rivals-"))
    server = Broker(folder, "always")
    workers: Workers | None = None
    assault: Attack | None = None
    try:
        server.start()
        os.environ["RIVAL_URL"] = server.url
        workload.prepare(folder)
        evaluations = workload.plan(options.evaluations, options.seed, folder)
        system: System = SYSTEMS[name](server.url, folder)
        workers = Workers(system.commands(options.workers, options.slots), folder, server.url)
        system.submit(evaluations)
        began_at = time.monotonic()
        assault = Attack(
            server, workers, seed=options.seed, minutes=options.minutes, every_s=options.fault_every,
            kinds=options.kill.split(","),
        )  # fmt: skip
        assault.start()
        ends, ended_at = _wait(system, evaluations, assault, options.patience)
        system.close()
        found = Findings(
            name, system.configuration, len(evaluations), options.seed, dict(assault.faults),
            ended_at - began_at,
        )  # fmt: skip
        _judge(found, evaluations, ends, list(workload.read_side_log(folder)), assault.deaths)
        return found
    finally:
        if assault is not None:
            assault.over.set()
            assault.join()
        if workers is not None:
            workers.close()
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(
    system: System, evaluations: Sequence[Planned], assault: Attack, patience_s: float
) -> tuple[dict[int, str], float]:
    """The ends of all, or those there are when none has come for `patience_s` since the last fault."""
    ends: dict[int, str] = {}
    count, changed_at = 0, time.monotonic()
    while len(ends) < len(evaluations) and time.monotonic() - changed_at < patience_s:
        time.sleep(0.1)
        try:
            ends = system.ends()
        except redis.RedisError:
            continue
        if len(ends) > count or assault.is_alive():
            changed_at, count = time.monotonic(), len(ends)
    assault.over.set()
    return ends, changed_at


def _judge(
    found: Findings, evaluations: Sequence[Planned], ends: dict[int, str], lines: Sequence[SideLine],
    deaths: Sequence[Death],
) -> None:  # fmt: skip
    poison = [one for one in evaluations if one.kind == "poison"]
    found.poison = f"{sum(one.x in ends for one in poison)} of {len(poison)}"
    found.lost = sum(one.x not in ends for one in evaluations if one.kind != "poison")
    found.failed_wrongly = sum(
        ends.get(one.x) == "failed" for one in evaluations if one.outcome == "succeeded"
    )
    times = Counter(line.x for line in lines if line.what == "end")
    found.ran_to_the_end_twice = sum(count > 1 for count in times.values())
    starts: dict[int, list[SideLine]] = {}
    over: dict[str, float] = {}
    for line in lines:
        if line.what == "start":
            starts.setdefault(line.x, []).append(line)
        else:
            over[line.token] = line.at
    fatal = {one.x for one in poison}
    for death in deaths:
        for x, begun in starts.items():
            if x in fatal or not any(
                one.pid in death.pids and one.at < death.at and one.token not in over for one in begun
            ):
                continue
            later = [one.at for one in begun if one.at > death.at]
            if later:
                found.recovery_s.append(round(min(later) - death.at, 3))
            elif ends.get(x) is None:
                found.never_recovered += 1
    found.recovery_s.sort()


def row(found: Findings) -> str:
    times = "nothing was under way"
    if recovery := found.recovery_s:
        times = f"{statistics.median(recovery):.1f} s, at most {recovery[-1]:.1f} s"
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(found.faults.items()))
    return (
        f"| {found.system} | {faults} | {found.lost} | {found.failed_wrongly} | {found.ran_to_the_end_twice} "
        f"| {found.poison} | {times} | {found.seconds:.0f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--evaluations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--kill", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to attack at most")
    parser.add_argument("--fault-every", type=float, default=2.0, help="seconds between faults, on average")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds in which nothing ends")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    all_found = []
    for name in options.systems.split(","):
        all_found.append(attack(name, options))
        print(row(all_found[-1]), file=sys.stderr, flush=True)
    if options.json:
        document: list[dict[str, Any]] = [asdict(found) for found in all_found]
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
