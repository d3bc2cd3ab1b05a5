"""Workers that a driver starts on its own machine, and keeps there while it waits.

::

    driver A ─┐  count what serves ──▶ enough: nothing to do
    driver B ─┴▶ take the guard ──▶ count again ──▶ announce ──▶ start, detached ──▶ it registers itself

Two drivers of a campaign share its workers: under the guard, each counts the workers that the other has
started or announced. A worker outlives the driver, and ends by itself when it has been idle for a while.

A worker counts if it was started by hand, or with what this driver has (`launch`). A local worker that was
started with something else is drained, unless a living driver uses it (`local_register`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from queue_eval.campaign import keys as names
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import ANNOUNCED_S, WorkerCard, ask_to_drain, live_workers
from queue_eval.driver.launch import Launch, for_workers, launch_key
from queue_eval.driver.local_register import DRAIN_HEARD_S, LocalRegister
from queue_eval.driver.worker_logs import clean_logs, log_name, tail
from queue_eval.errors import NodeAwayError, WorkerError
from queue_eval.foreign_text import plain
from queue_eval.machine import is_alive, new_worker_name
from queue_eval.marks import INSIDE_JOB
from queue_eval.server.home import spool_file, spool_folder
from queue_eval.transport.access import Access
from queue_eval.transport.clients import node_of
from queue_eval.transport.private_files import open_private
from queue_eval.transport.private_home import make_home
from queue_eval.user_warning import warn_user

log = plain(logging.getLogger(__name__))

IDLE_TIMEOUT_S = 60
"""A local worker ends after it has been idle for this long."""

GUARD_MS = 10_000
"""The guard of a driver that has died is free after this long."""

EARLY_S = 5.0
"""A worker that fails sooner than this after its start will hardly do better the next time."""

EARLY_DEATHS = 3
"""After so many early deaths in a row, the user gets an error."""

LOOK_EVERY_S = 5.0
"""How often a driver that has started all its slots looks for local workers that are to be drained."""

COUNT_EVERY_S = 1.0
"""How often a driver that uses workers of others counts their slots."""

_MAX_LOCK_WAIT_S = 10.0
"""Longest wait for another thread that is keeping the workers."""


@dataclass(frozen=True)
class _Started:
    name: str
    slots: int
    process: subprocess.Popen[bytes]
    started: float
    digest: str
    log_file: Path

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None


class LocalWorkers:
    """Keeps `slots` slots in all on this machine that serve a campaign. Several threads may use it."""

    def __init__(
        self, queue: CampaignCommands, home: Path, slots: int, python: str, *,
        label: str = names.DEFAULT_QUEUE,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._label = label
        self._home = home
        self._slots = slots
        self._python = python
        self._register = LocalRegister(queue, home)
        self._launch: Launch | None = None
        self._given: tuple[Access, Access] | None = None
        self._digest = ""
        self._look_at = 0.0
        self._asked: set[str] = set()
        self._mute: set[str] = set()
        self._has_warned = False
        self._inside = os.environ.get(INSIDE_JOB)
        """The campaign in one of whose jobs this process runs."""
        # Processes that this one runs in. Slots of a worker among them are taken, by that very job.
        parents = psutil.Process().parents() if self._inside is not None else []
        self._around = {process.pid for process in parents}
        self._lock = threading.Lock()
        self._started: list[_Started] = []
        self._early_deaths = 0
        self._not_before = 0.0

    def ensure(self, *, before_submit: bool = False) -> None:
        """Start missing slots, and drain local workers that run jobs with what no driver has any more.

        `before_submit`: wait for another thread that does this, so that no worker that is to be drained gets
        the jobs that are submitted next. Raises WorkerError when started workers die at once, repeatedly.
        """
        if not self._lock.acquire(timeout=_MAX_LOCK_WAIT_S if before_submit else 0.0):
            return  # Another thread does it.
        try:
            # A worker that cannot be seen now may be there: none is started in its place.
            with contextlib.suppress(NodeAwayError), self._queue.link.skipping_nodes():
                self._ensure(DRAIN_HEARD_S if before_submit else 0.0)
        finally:
            self._lock.release()

    def _ensure(self, patience_s: float) -> None:
        before = len(self._started)
        self._bury()
        if len(self._started) < before:
            self._look_at = 0.0
        now = time.monotonic()
        if now < max(self._not_before, self._look_at):
            return
        used = self._note_launch()
        if self._started:
            self._given_access()
        cards = [worker.card for worker in live_workers(self._queue.link)]
        self._retire(cards, used, patience_s)
        own = sum(started.slots for started in self._started if started.digest == self._digest)
        if own >= self._slots:
            self._look_at = now + LOOK_EVERY_S
        elif self._serving(cards) >= self._slots:
            self._look_at = now + COUNT_EVERY_S
        else:
            self._hire()

    def _note_launch(self) -> set[str]:
        """Note on the server what this driver's workers are started with. Returns the digests in use.

        The environment is taken once, at the first look: a program that changes its environment later changes
        no jobs. Only if another evaluator of this process and campaign has begun since, both take it anew.
        """
        is_first = self._launch is None
        if self._launch is None:
            self._take_launch()
        before, used = self._register.note(self._digest)
        if not is_first and before not in (None, self._digest):
            self._take_launch()
            _, used = self._register.note(self._digest)
        return used | {self._digest}

    def _take_launch(self) -> None:
        self._launch = Launch.now(self._python)
        self._digest = self._launch.digest(launch_key(self._queue.link.access, self._home))

    def _retire(self, cards: Sequence[WorkerCard], used: set[str], patience_s: float) -> None:
        """Drain workers that no living driver uses, and wait up to `patience_s` until each leases no more."""
        if self._queue.campaign == self._inside:
            return  # They run this very job, and others like it.
        foreign = [card for card in self._register.leasing(cards) if card.launch != self._digest]
        unused = [card for card in foreign if card.launch not in used]
        if len(foreign) > len(unused) and not self._has_warned:
            self._has_warned = True
            warn_user(
                f"another driver of campaign {self._queue.campaign!r} has another environment, folder or "
                "interpreter, and the workers of both run its jobs; end one driver, or give both the same"
            )
        for card in unused:
            if card.name not in self._asked:
                self._asked.add(card.name)
                log.info("%s has another environment, folder or interpreter: asked to drain", card.name)
        # A worker that has not answered once is not waited for before each submission.
        is_patient = patience_s > 0 and not self._mute.issuperset(card.name for card in unused)
        for card in self._register.retire(unused, patience_s if is_patient else 0.0):
            if is_patient and card.name not in self._mute:
                self._mute.add(card.name)
                warn_user(
                    f"worker {card.name} has another environment, folder or interpreter and does not answer; "
                    f"end its process {card.pid}, as it may still run jobs of {self._queue.campaign!r}"
                )

    def leave(self) -> None:
        """This driver uses its workers no more. The jobs that they hold go on."""
        if self._launch is not None:
            with self._queue.link.skipping_nodes():
                self._register.strike_off()

    def _serving(self, cards: Sequence[WorkerCard] | None = None) -> int:
        """How many slots on this machine serve the campaign, or will in a moment."""
        if cards is None:
            cards = [worker.card for worker in live_workers(self._queue.link)]
        return sum(card.slots or 0 for card in cards if self._counts(card))

    def _counts(self, card: WorkerCard) -> bool:
        if card.machine != self._register.machine or card.state == "draining":
            return False
        if not card.serves(self._queue.campaign, self._label) or self._queue.campaign in card.refused:
            return False
        if self._inside is not None and (not card.is_for(self._queue.campaign) or card.pid in self._around):
            # A worker for all campaigns may be full of jobs that wait for others, as this one does.
            return False
        if self._register.is_local(card) and card.launch != self._digest:
            return False
        return card.announced or is_alive(card.pid or 0, card.born or 0.0)

    def _hire(self) -> None:
        token = secrets.token_hex(8)
        if not self._queue.take_hiring(token, GUARD_MS):
            return  # Another driver starts workers. The next look will see them.
        try:
            missing = self._slots - self._serving()
            if missing > 0:
                self._start(missing)
        finally:
            self._queue.free_hiring(token)

    def _start(self, slots: int) -> None:
        name = new_worker_name()
        # Announced before it is started: until it has registered itself it must count, too.
        self._announce(
            WorkerCard(
                name=name, host=name.rpartition("-")[0], machine=self._register.machine, slots=slots,
                campaigns=(self._queue.campaign,), state="running", announced=True, launch=self._digest,
            )
        )  # fmt: skip
        logs = self._home / "logs"
        make_home(self._home)
        logs.mkdir(mode=0o700, exist_ok=True)
        log_file = logs / log_name(name)
        command = [
            sys.executable, "-P", "-m", "queue_eval", "worker", "-n", str(slots),
            "--campaign", self._queue.campaign, "--home", str(self._home), "--name", name,
            "--idle-timeout", str(IDLE_TIMEOUT_S), "--launch", self._digest,
        ]  # fmt: skip
        clean_logs(logs, [worker.card.name for worker in live_workers(self._queue.link)])
        with open(log_file, "ab", opener=open_private) as output:
            # The worker inherits the lock with the file. By the lock others see that the worker lives.
            with contextlib.suppress(OSError):
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert self._launch is not None  # `_note_launch` has set it.
            try:
                process = self._launch.start(command, output, self._given_access())
            except WorkerError:
                self._forget(name)  # Else it would count, and the next look would find nothing missing.
                raise
        # The thread waits only to leave no zombie. It is a daemon, because the worker outlives the driver.
        threading.Thread(target=process.wait, name=f"queue_eval-{name}", daemon=True).start()
        self._started.append(_Started(name, slots, process, time.monotonic(), self._digest, log_file))
        log.info("started worker %s with %d slots for campaign %s", name, slots, self._queue.campaign)

    def _given_access(self) -> Access:
        """The access that these workers get. It is written again for them when the server has moved."""
        access = self._queue.link.access
        if self._given is None or self._given[0] is not access:
            self._given = access, for_workers(access, self._home)
        return self._given[1]

    def _announce(self, card: WorkerCard) -> None:
        def operation(client: Any) -> None:
            seconds, microseconds = client.time(**node_of(client, names.WORKERS))
            client.set(names.worker_key(card.name), card.encode(), ex=round(ANNOUNCED_S))
            client.zadd(names.WORKERS, {card.name: seconds * 1000 + microseconds // 1000})

        self._queue.link.call(operation)

    def dismiss(self) -> None:
        """Drain the workers that this driver has started: nobody comes back to an unnamed campaign."""
        with self._queue.link.skipping_nodes():
            ask_to_drain(self._queue.link, [started.name for started in self._started if started.is_alive])

    def _bury(self) -> None:
        """Clean up after workers of ours that have ended, and free the leases of those that were killed."""
        dead = [started for started in self._started if not started.is_alive]
        for started in dead:
            self._started.remove(started)
            # What it has spooled need not run again: the next worker delivers that, and frees the rest.
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
                    f"see {started.log_file}:\n{tail(started.log_file)}"
                )

    def _forget(self, name: str) -> None:
        link = self._queue.link
        link.call(lambda client: client.zrem(names.WORKERS, name))
        link.call(lambda client: client.delete(names.worker_key(name)))
