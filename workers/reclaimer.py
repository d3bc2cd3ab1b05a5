"""Takes back the jobs of dead workers: when their lease has expired, or at once if they died on this machine.

Settlements that they have left on disk are delivered first: these jobs need not run again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignQueue
from queue_eval.campaign.registry import WorkerCard, live_workers
from queue_eval.errors import CampaignNotFoundError, GiveUp, NodeAwayError, ServerRefusedError
from queue_eval.foreign_text import plain
from queue_eval.machine import is_alive, machine_id, parse_process
from queue_eval.model.moves import Reclaimed
from queue_eval.server.home import spool_file
from queue_eval.transport.clients import node_of
from queue_eval.transport.link import Link
from workers.options import WorkerOptions
from workers.repeated_log import RepeatedLog
from workers.spool import deliver_orphans
from workers.state.served_campaign import ServedCampaign
from workers.state.worker_state import WorkerState

log = plain(logging.getLogger(__name__))

_T = TypeVar("_T")

_MACHINE_LIFE_S = 14 * 24 * 3600
"""The key of a machine expires when no worker has served there for so long."""

_RENEW_EVERY_S = 3600.0
"""How often a worker postpones that expiry."""

_DRAIN_LIFE_S = 3600.0
"""A request to drain outlives its worker's last sign of life by so much: the worker may only be cut off."""


class Reclaimer:
    """Looks about once a second: one script per campaign, all in one call, cheap when nothing has expired."""

    def __init__(self, link: Link, options: WorkerOptions, state: WorkerState, spools: Path | None) -> None:
        self._link = link
        self._spools = spools
        self._options = options
        self._state = state
        self._grace_ms = round(options.lease_s * 1000)
        self._machine = machine_id()
        self._looked_at: set[tuple[str, str]] = set()
        """Dead neighbours (name, card) whose jobs this worker has taken back."""
        self._renew_at = 0.0
        self._repeated_log = RepeatedLog(log)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reclaimer", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _work(self) -> None:
        with suppress(GiveUp):
            self._try("clearing the register of workers", self._clear_register)
        # The pause is jittered, so that a fleet does not ask in one instant.
        while not self._stopped.wait(min(1.0, self._options.lease_s / 10) * random.uniform(0.7, 1.3)):
            try:
                self._look_about()
            except GiveUp:
                return

    def _look_about(self) -> None:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEW_EVERY_S
            self._try("letting the machine's key expire later", self._renew)
        self.try_spools()
        dead = self._try("looking for dead workers of this machine", self._dead_neighbours) or []
        for worker in ("", *(name for name, _ in dead)):
            self._try("reclaiming", partial(self._reclaim, worker))
        self._looked_at.update(dead)

    def _try(self, action: str, step: Callable[[], _T]) -> _T | None:
        """Run `step`, and log an error of it: the other steps must go on."""
        try:
            return step()
        except GiveUp:
            raise
        except Exception as error:
            self._repeated_log.add(f"{action} failed, trying again", error)
            return None

    def try_spools(self) -> None:
        """Settle what dead workers of this machine have left on its disk, as far as possible."""
        self._try("delivering spools", self._deliver_spools)

    def _deliver_spools(self) -> None:
        if self._spools is not None:
            deliver_orphans(self._spools, self._link, self._repeated_log)

    def _is_spooled(self, worker: str) -> bool:
        """Whether another worker is delivering the spool of a dead worker."""
        return self._spools is not None and spool_file(self._spools, worker).exists()

    def reclaim_own_name(self) -> None:
        """Take back what a former life under the same name still holds."""
        self._try("reclaiming", partial(self._reclaim, self._options.name))

    def _reclaim(self, worker: str) -> None:
        """Take back the jobs of a worker in all campaigns, page by page. "": of expired workers."""
        asked = [served for served, _ in self._state.campaigns.holdings()]
        while asked:
            queues = [served.queue for served in asked]
            replies = CampaignQueue.reclaim_all(self._link, queues, grace_ms=self._grace_ms, worker=worker)
            asked = [
                served
                for served, reply in zip(asked, replies, strict=True)
                if self._try(f"reclaiming for {served.name}", partial(self._take_back, served, worker, reply))
            ]

    def _take_back(self, served: ServedCampaign, worker: str, reply: Reclaimed | Exception) -> bool:
        """Log what was taken back of a campaign. Returns whether there is more."""
        if isinstance(reply, CampaignNotFoundError):
            self._state.campaigns.leave(served.name)
            return False
        if isinstance(reply, Exception):
            raise reply
        if reply.ids:
            whose = worker or "workers whose leases expired"
            log.warning("took back jobs %s of %s from %s", reply.ids, served.name, whose)
        return reply.more

    def _dead_neighbours(self) -> list[tuple[str, str]]:
        """Workers of this machine (name, card) that have died since this worker last looked."""
        key = keys.machine_key(self._machine)
        cards = self._link.call(lambda client: client.hgetall(key))
        dead = []
        for raw_name, raw_card in cards.items():
            name, card = raw_name.decode(errors="replace"), raw_card.decode(errors="replace")
            process = parse_process(raw_card)
            if process is None:
                self._strike_off(raw_name)  # not written by a worker
                continue
            if name == self._options.name or is_alive(*process):
                continue
            # Keys on a node of a cluster that is away are dealt with when the node is back.
            with suppress(NodeAwayError):
                if not self._is_shown_here(name):
                    self._strike_off(name)
                    if not self._is_shown(name):
                        self._forget(name)
                        self._link.call(partial(_strike_off_drain, [name]))
                elif (name, card) not in self._looked_at and not self._is_spooled(name):
                    # Its card stays on the list: other workers serve campaigns that this worker does not.
                    dead.append((name, card))
        self._looked_at &= {
            (name.decode(errors="replace"), card.decode(errors="replace")) for name, card in cards.items()
        }
        return dead

    def _renew(self) -> None:
        """Postpone the expiry of this machine's key. It expires because a machine has another name after each
        boot, and nobody would remove the former key."""
        key = keys.machine_key(self._machine)
        # A server that the build before has started does not permit this. Then the key is kept, as it was.
        with suppress(ServerRefusedError):
            self._link.call(lambda client: client.expire(key, _MACHINE_LIFE_S))

    def _is_shown_here(self, worker: str) -> bool:
        """Whether a worker has a card of this machine. False when its lease is long over, or its name belongs
        to another machine by now."""
        shown = self._link.call(lambda client: client.get(keys.worker_key(worker)))
        return shown is not None and WorkerCard.parse(worker, shown).machine == self._machine

    def _clear_register(self) -> None:
        """Strike off workers that died on any machine, and that no neighbour has struck off."""
        seen, asked, now_ms = self._link.call(_read_register)
        live = {worker.card.name.encode() for worker in live_workers(self._link)}
        # Keep workers that were asked to drain: one may only be cut off, and its request must not get lost.
        kept = {name for name in asked & seen.keys() if now_ms - seen[name] < _DRAIN_LIFE_S * 1000} | live
        for name in seen.keys() - kept:
            self._forget(name)
        if gone := list(asked - kept):
            self._link.call(partial(_strike_off_drain, gone))

    def _forget(self, worker: str | bytes) -> None:
        """Take a silent worker off the register. If it lives, its next heartbeat brings it back."""
        self._link.call(lambda client: client.zrem(keys.WORKERS, worker))
        name = worker.decode(errors="replace") if isinstance(worker, bytes) else worker
        self._link.call(lambda client: client.delete(keys.nudge_key(name)))

    def _is_shown(self, worker: str) -> bool:
        return self._link.call(lambda client: client.get(keys.worker_key(worker))) is not None

    def _strike_off(self, worker: str | bytes) -> None:
        key = keys.machine_key(self._machine)
        self._link.call(lambda client: client.hdel(key, worker))


def _read_register(client: Any) -> tuple[dict[bytes, float], set[bytes], float]:
    """When each worker was last seen (ms), which are asked to drain, and what time it is (ms)."""
    seconds, micros = client.time(**node_of(client, keys.WORKERS))
    asked = set(client.sscan_iter(keys.DRAIN, count=1000))
    seen = dict(client.zrange(keys.WORKERS, 0, -1, withscores=True))
    return seen, asked, seconds * 1000 + micros / 1000


def _strike_off_drain(workers: Sequence[str | bytes], client: Any) -> None:
    client.srem(keys.DRAIN, *workers)
