"""Which local workers of a campaign a living driver still uses, and how the others are told to end.

::

    driver ──▶ notes its launch digest on the server, under its process ──▶ :drivers
                                                                              │
    card of a local worker: its launch digest ──▶ does a living process have noted it?
                                                     no ──▶ it is asked to drain, and waited for

A local worker whose digest no living driver has noted would run jobs with what a driver had that has ended:
another environment, folder or interpreter. Only workers and drivers of this machine are judged, since only
their processes can be seen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import WorkerCard, ask_to_drain, card_of, live_workers
from queue_eval.driver.worker_logs import log_name
from queue_eval.machine import birth_of, is_alive, machine_id, parse_process

KEPT_S = 14 * 24 * 3600
"""A driver's note is kept for this long, unless the driver is seen to be dead before."""

_NOTE_EVERY_S = 3600.0
"""A driver renews its note this often."""

DRAIN_HEARD_S = 3.0
"""Longest wait for a worker that was asked to drain, until it leases no more."""

IDLE_HEARD_S = 10.0
"""The same for a worker that has nothing to do: no driver is kept waiting."""

_LOOK_EVERY_S = 0.02


class LocalRegister:
    """The local workers of one campaign on this machine. `home`: the folder that has their logs."""

    def __init__(self, queue: CampaignCommands, home: Path) -> None:
        self._queue = queue
        self._logs = home / "logs"
        self.machine = machine_id()
        self._note_anew_at = 0.0

    def note(self, digest: str) -> tuple[str | None, set[str]]:
        """Note the digest of this process. Returns what this process had noted before, if anything, and the
        digests of all other living drivers of this machine."""
        own, now = self._own_name(), time.monotonic()
        noted = self._queue.enlist_driver(own, digest, KEPT_S, anew=now >= self._note_anew_at)
        self._note_anew_at = now + _NOTE_EVERY_S if now >= self._note_anew_at else self._note_anew_at
        before = noted.pop(own, None)
        return before, self._living(noted)

    def strike_off(self) -> None:
        """Note that this process uses no local worker any more."""
        self._queue.delist_drivers([self._own_name()])

    def used(self) -> set[str]:
        """The digests of all living drivers of this machine."""
        return self._living(self._queue.drivers())

    def is_local(self, card: WorkerCard) -> bool:
        """Whether a driver has started this worker, here and for this campaign."""
        if card.machine != self.machine or not card.is_for(self._queue.campaign):
            return False
        # The card of an earlier build's worker has no digest. Only workers that a driver started log there.
        return card.launch is not None or (self._logs / log_name(card.name)).exists()

    def leasing(self, cards: Iterable[WorkerCard]) -> list[WorkerCard]:
        """Of these cards, those of local workers of the campaign that go on leasing its jobs."""
        return [card for card in cards if self.is_local(card) and _leases(card)]

    def retire(self, workers: Sequence[WorkerCard], wait_s: float = DRAIN_HEARD_S) -> list[WorkerCard]:
        """Ask workers to drain. Returns those that may still lease after `wait_s`."""
        link = self._queue.link
        ask_to_drain(link, [card.name for card in workers])
        left = list(workers)
        deadline = time.monotonic() + wait_s
        while left := [card for card in left if _leases(card_of(link, card.name))]:
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_EVERY_S)
        return left

    def _living(self, noted: Mapping[str, str]) -> set[str]:
        """The digests of living drivers of this machine. The notes of dead ones are deleted.

        Drivers of other machines, and of this machine before its last boot, use no worker here.
        """
        living: set[str] = set()
        dead: list[str] = []
        for driver, digest in noted.items():
            machine, _, process = driver.partition(" ")
            if machine != self.machine:
                continue
            known = parse_process(process.encode())
            if known is not None and is_alive(*known):
                living.add(digest)
            else:
                dead.append(driver)
        self._queue.delist_drivers(dead)
        return living

    def _own_name(self) -> str:
        # Found anew each time: a process that was forked is a driver of its own.
        return f"{self.machine} {os.getpid()} {birth_of(os.getpid())}"


def _may_live(card: WorkerCard) -> bool:
    return card.announced or is_alive(card.pid or 0, card.born or 0.0)


def _leases(card: WorkerCard | None) -> bool:
    return card is not None and card.state != "draining" and _may_live(card)


def retire_idle(queue: CampaignCommands, home: Path) -> list[WorkerCard]:
    """Drain the local workers of a campaign in which nothing is left to do, and which no driver uses.

    Jobs that are submitted later then run with what their driver has. Returns the workers that have not
    answered within `IDLE_HEARD_S`.
    """
    register = LocalRegister(queue, home)
    local = register.leasing(worker.card for worker in live_workers(queue.link))
    used = register.used() if local else set()
    unused = [card for card in local if card.launch not in used]
    return register.retire(unused, IDLE_HEARD_S) if unused else []
