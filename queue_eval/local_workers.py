"""Workers that a driver starts on its own machine, and keeps there while it waits.

::

    driver A ─┐  count what serves ──▶ enough: nothing to do
    driver B ─┴▶ take the guard ──▶ count again ──▶ announce ──▶ start, detached ──▶ it registers itself

Two drivers of a campaign share its workers: under the guard, each counts what the other has started or
announced. A worker outlives the driver, and ends by itself when it has been idle for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from queue_eval import keys as names
from queue_eval.clients import node_of
from queue_eval.errors import NodeAwayError, WorkerError
from queue_eval.fleet import ANNOUNCED_S, WorkerCard, ask_to_drain, live_workers
from queue_eval.leftovers import unmarked
from queue_eval.machine import is_alive, machine_id, new_worker_name
from queue_eval.queue import CampaignQueue
from queue_eval.server_home import spool_file, spool_folder
from queue_eval.surroundings import INSIDE_JOB

log = logging.getLogger(__name__)

IDLE_TIMEOUT_S = 60
GUARD_MS = 10_000
EARLY_S = 5.0
"""A worker that fails sooner than this after its start will hardly do better the next time."""

EARLY_DEATHS = 3
_LOG_TAIL = 2000

_LOG_AGE_S = 14 * 24 * 3600.0
"""Logs of workers that have ended are kept for so long after their last line."""

_LOGS_MOST = 100
"""So many of them at most: the newest."""


@dataclass(frozen=True)
class _Started:
    name: str
    slots: int
    process: subprocess.Popen[bytes]
    started: float
    log_file: Path

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None


class LocalWorkers:
    """Keeps `slots` slots in all on this machine that serve a campaign. May be used from several threads."""

    def __init__(
        self, queue: CampaignQueue, home: Path, slots: int, python: str, *,
        label: str = names.DEFAULT_QUEUE,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._label = label
        self._home = home
        self._slots = slots
        self._python = python
        self._machine = machine_id()
        # Workers that this process runs in: their slots are taken, by the very job that this driver is in.
        self._is_inside = INSIDE_JOB in os.environ
        self._around = {one.pid for one in psutil.Process().parents()} if self._is_inside else set()
        self._lock = threading.Lock()
        self._started: list[_Started] = []
        self._early_deaths = 0
        self._not_before = 0.0

    def ensure(self) -> None:
        """Start what is missing. Raises WorkerError when what was started dies at once, again and again."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            # What cannot be seen now may be there: nobody is started for it.
            with contextlib.suppress(NodeAwayError), self._queue.link.skipping_nodes():
                self._ensure()
        finally:
            self._lock.release()

    def _ensure(self) -> None:
        self._bury()
        own = sum(started.slots for started in self._started)
        if own >= self._slots or time.monotonic() < self._not_before:
            return
        missing = self._slots - self._serving()
        if missing > 0:
            self._hire()

    def _serving(self) -> int:
        """Slots on this machine that serve the campaign, or will in a moment."""
        cards = [worker.card for worker in live_workers(self._queue.link)]
        return sum(card.slots or 0 for card in cards if self._counts(card))

    def _counts(self, card: WorkerCard) -> bool:
        if card.machine != self._machine or card.state == "draining":
            return False
        if not card.serves(self._queue.campaign, self._label) or self._queue.campaign in card.refused:
            return False
        if self._is_inside and (not card.is_for(self._queue.campaign) or card.pid in self._around):
            # Those for all campaigns may be full of jobs that wait as this one does, for the like of them.
            return False
        return card.announced or is_alive(card.pid or 0, card.born or 0.0)

    def _hire(self) -> None:
        token = secrets.token_hex(8)
        if not self._queue.take_hiring(token, GUARD_MS):
            return  # another driver is at it; the next look tells
        try:
            missing = self._slots - self._serving()
            if missing > 0:
                self._start(missing)
        finally:
            self._queue.free_hiring(token)

    def _start(self, slots: int) -> None:
        name = new_worker_name()
        # Announced before it exists: between its start and its registration it must count, too.
        self._announce(
            WorkerCard(
                name=name, host=name.rpartition("-")[0], machine=self._machine, slots=slots,
                campaigns=(self._queue.campaign,), state="running", announced=True,
            )
        )  # fmt: skip
        logs = self._home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log_file = logs / f"worker-{name}.log"
        command = [
            sys.executable, "-P", "-m", "queue_eval", "worker", "-n", str(slots),
            "--campaign", self._queue.campaign, "--home", str(self._home), "--name", name,
            "--idle-timeout", str(IDLE_TIMEOUT_S),
        ]  # fmt: skip
        self._clean_logs(logs)
        with log_file.open("ab") as output:
            # The worker inherits the lock with the file: by it others see that the log is of a living one.
            with contextlib.suppress(OSError):
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment(),
                start_new_session=True,
            )  # fmt: skip
        # Waits only to leave no zombie; a daemon, because the worker outlives the driver.
        threading.Thread(target=process.wait, name=f"queue_eval-{name}", daemon=True).start()
        self._started.append(_Started(name, slots, process, time.monotonic(), log_file))
        log.info("started worker %s with %d slots for campaign %s", name, slots, self._queue.campaign)

    def _clean_logs(self, folder: Path) -> None:
        """Remove the logs of workers that ended long ago, or before a hundred others."""
        live = {f"worker-{worker.card.name}.log" for worker in live_workers(self._queue.link)}
        found = [(_changed_at(path), path) for path in folder.glob("worker-*.log") if path.name not in live]
        newest_first = sorted(found, reverse=True)
        oldest_kept = time.time() - _LOG_AGE_S
        for number, (changed_at, path) in enumerate(newest_first):
            if number >= _LOGS_MOST or changed_at < oldest_kept:
                _remove_unlocked(path)

    def _announce(self, card: WorkerCard) -> None:
        def operation(client: Any) -> None:
            seconds, microseconds = client.time(**node_of(client, names.WORKERS))
            client.set(names.worker_key(card.name), card.encode(), ex=round(ANNOUNCED_S))
            client.zadd(names.WORKERS, {card.name: seconds * 1000 + microseconds // 1000})

        self._queue.link.call(operation)

    def dismiss(self) -> None:
        """Let those go that this driver has started: their campaign has no name by which to come back."""
        with self._queue.link.skipping_nodes():
            ask_to_drain(self._queue.link, [started.name for started in self._started if started.is_alive])

    def _environment(self) -> dict[str, str]:
        environment = {**unmarked(), "QUEUE_EVAL_PYTHON": self._python}  # what runs user code there
        environment.pop(INSIDE_JOB, None)
        access = self._queue.link.access  # the newest
        if access.file is not None and access.home is None:
            environment["QUEUE_EVAL_ACCESS"] = str(access.file)
        elif access.home is None:
            # Not on the command line, which every user of the machine can read.
            environment["QUEUE_EVAL_URL"] = access.url
            environment.pop("QUEUE_EVAL_ACCESS", None)
            if access.key is not None:
                environment["QUEUE_EVAL_KEY"] = access.key.decode()
        root = str(Path(__file__).resolve().parents[1])
        if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
            # Not installed: the worker is to use the same sources as this process.
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        return environment

    def _bury(self) -> None:
        """Take note of workers of ours that have ended; what one held when it was killed is free at once."""
        dead = [started for started in self._started if not started.is_alive]
        for started in dead:
            self._started.remove(started)
            # What it has kept on disk need not run again: the next worker delivers that, and frees the rest.
            if not spool_file(spool_folder(self._home), started.name).exists():
                self._forget(started.name)
                while self._queue.reclaim(grace_ms=0, worker=started.name).more:
                    pass
            lived_s = time.monotonic() - started.started
            if started.process.returncode == 0 or lived_s > EARLY_S:
                self._early_deaths = 0
                continue
            self._early_deaths += 1
            self._not_before = time.monotonic() + self._early_deaths
            if self._early_deaths >= EARLY_DEATHS:
                self._early_deaths = 0
                raise WorkerError(
                    f"workers started on this machine die at once (status {started.process.returncode}), "
                    f"see {started.log_file}:\n{_tail(started.log_file)}"
                )

    def _forget(self, name: str) -> None:
        link = self._queue.link
        link.call(lambda client: client.zrem(names.WORKERS, name))
        link.call(lambda client: client.delete(names.worker_key(name)))


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another driver was faster
        return 0.0


def _remove_unlocked(path: Path) -> None:
    """Remove the log of a worker that has ended; where the file system has no locks nobody can tell."""
    with contextlib.suppress(OSError), path.open("r+b") as log_file:
        fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _tail(file: Path) -> str:
    try:
        return file.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
    except OSError:
        return ""
