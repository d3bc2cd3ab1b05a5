"""Takes back what dead workers hold: those whose lease has expired, and those of this machine at once.

What they have settled on disk is delivered first: it need not run again.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from pathlib import Path

from queue_eval import keys
from queue_eval.connection import GiveUp, Link
from queue_eval.errors import CampaignNotFoundError
from queue_eval.machine import is_alive, machine_id
from workers.book import Book
from workers.options import WorkerOptions
from workers.served import Served
from workers.spool import deliver_orphans, spool_file

log = logging.getLogger(__name__)


class Reclaimer:
    """Looks about once a second: one script call per campaign, cheap when nothing has expired."""

    def __init__(self, link: Link, options: WorkerOptions, book: Book, spools: Path | None) -> None:
        self._link = link
        self._spools = spools
        self._options = options
        self._book = book
        self._grace_ms = round(options.lease_s * 1000)
        self._machine = machine_id()
        self._looked_at: set[tuple[str, str]] = set()
        """Dead neighbours (name, card) whose jobs this worker has taken back."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reclaimer", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _work(self) -> None:
        # Jitter, so that a fleet does not ask in one instant.
        while not self._stopped.wait(min(1.0, self._options.lease_s / 10) * random.uniform(0.7, 1.3)):
            try:
                self.deliver_spools()
                dead = self._dead_neighbours()
                for served, _ in self._book.holdings():
                    self._reclaim(served, "")
                    for worker, _ in dead:
                        self._reclaim(served, worker)
                self._looked_at.update(dead)
            except GiveUp:
                return
            except Exception:  # it must outlive whatever it meets
                log.exception("reclaiming failed; trying again")

    def deliver_spools(self) -> None:
        """Settle what dead workers of this machine have left on its disk."""
        if self._spools is not None:
            deliver_orphans(self._spools, self._link)

    def _is_spooled(self, worker: str) -> bool:
        """Whether another worker is delivering what a dead one has left."""
        return self._spools is not None and spool_file(self._spools, worker).exists()

    def reclaim_own_name(self, served: Served) -> None:
        """What a former life under the same name still holds."""
        self._reclaim(served, self._options.name)

    def _reclaim(self, served: Served, worker: str) -> None:
        try:
            while True:
                reply = served.queue.reclaim(grace_ms=self._grace_ms, worker=worker)
                if reply.ids:
                    whose = worker or "workers whose leases expired"
                    log.warning("took back jobs %s of %s from %s", reply.ids, served.name, whose)
                if not reply.more:
                    return
        except CampaignNotFoundError:
            self._book.leave(served.name)

    def _dead_neighbours(self) -> list[tuple[str, str]]:
        """Workers of this machine (name, card) that have died since this worker last looked."""
        key = keys.machine_key(self._machine)
        cards = self._link.call(lambda client: client.hgetall(key))
        dead = []
        for name, card in ((name.decode(), card.decode()) for name, card in cards.items()):
            pid, _, created = card.partition(" ")
            if name == self._options.name or is_alive(int(pid), float(created)):
                continue
            if not self._is_shown_here(name):
                self._strike_off(name)
            elif (name, card) not in self._looked_at and not self._is_spooled(name):
                # It stays on the list: others serve campaigns that this worker does not.
                dead.append((name, card))
        self._looked_at &= {(name.decode(), card.decode()) for name, card in cards.items()}
        return dead

    def _is_shown_here(self, worker: str) -> bool:
        """False when its lease is long over, or its name is another machine's by now."""
        shown = self._link.call(lambda client: client.get(keys.worker_key(worker)))
        return shown is not None and json.loads(shown)["machine"] == self._machine

    def _strike_off(self, worker: str) -> None:
        key = keys.machine_key(self._machine)
        self._link.call(lambda client: client.hdel(key, worker))
