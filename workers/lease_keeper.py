"""The heartbeat: extends all leases, shows that this worker lives, and learns what it must know.

Its thread does nothing that can take long, so that a busy exchange or a stuck child never costs a lease.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psutil

from queue_eval import keys
from queue_eval.connection import GiveUp, Link
from queue_eval.errors import (
    CampaignNotFoundError,
    DamagedError,
    FunctionError,
    MethodUnavailableError,
    ServerRefusedError,
)
from queue_eval.faults import undamaged
from queue_eval.fleet import CARD_LEASES, MOST_REASON, MOST_REFUSALS, WorkerCard
from queue_eval.home_loss import HomeLoss
from queue_eval.machine import birth_of, machine_id
from queue_eval.moves import Release
from queue_eval.queue import CampaignQueue
from workers.book import Book
from workers.complaints import Complaints
from workers.options import WorkerOptions
from workers.runner import Runner
from workers.served import Served, label_of, make_plan

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Beats every third of a lease, and at once when poked. `start` and `stop` may be called twice."""

    def __init__(
        self, link: Link, options: WorkerOptions, book: Book, runner: Runner, *, on_drain: Callable[[], None]
    ) -> None:  # fmt: skip
        self._link = link
        self._options = options
        self._book = book
        self._runner = runner
        self._on_drain = on_drain
        self._lease_ms = round(options.lease_s * 1000)
        self._complaints = Complaints(log)
        self._poked = threading.Event()
        self._stopped = threading.Event()
        self.is_draining = False
        self._unknown: dict[str, dict[tuple[int, int], float]] = {}
        self._machine = machine_id()
        self._created = psutil.Process().create_time()
        self._born = birth_of(os.getpid())
        self._allotted = _allotted(options)
        self._home = HomeLoss(link.access.home)
        self._thread = threading.Thread(target=self._work, name="lease-keeper", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def poke(self) -> None:
        """Beat now: a notice says that something has changed."""
        self._poked.set()

    def stop(self) -> None:
        """Beat no more; a beat under way is waited for."""
        self._stopped.set()
        self._poked.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def sign_off(self) -> None:
        """Take this worker off the registries; called once, when it holds nothing any more."""
        name = self._options.name

        def operation(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            pipeline.delete(keys.worker_key(name))
            pipeline.delete(keys.nudge_key(name))
            pipeline.zrem(keys.WORKERS, name)
            pipeline.srem(keys.DRAIN, name)
            pipeline.hdel(keys.machine_key(self._machine), name)
            pipeline.execute()

        self._link.call(operation)

    def beat(self) -> None:
        """One heartbeat."""
        if (loss := self._home.tell()) is not None:
            log.warning("%s", loss)
        reasons = self._book.reasons()
        campaigns, drain_asked = self._show_life(reasons)
        for served, tokens in self._book.holdings():
            self._try(served.name, partial(self._extend, served, tokens))
        served_names = {served.name for served, _ in self._book.holdings()}
        for campaign in campaigns:
            if campaign not in served_names:
                self._try(campaign, partial(self._look_at, campaign))
        if self._book.reasons() != reasons:
            self.poke()  # drivers wait to be told
        if drain_asked and not self.is_draining:
            log.info("asked to drain")
            self._on_drain()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                self.beat()
            except GiveUp:
                return
            except Exception as error:  # the heartbeat must not stop while jobs run
                self._complaints.add("the heartbeat failed, trying again", error)
                self._stopped.wait(1.0)
            self._poked.wait(self._options.lease_s / 3)
            self._poked.clear()

    def _try(self, campaign: str, step: Callable[[], None]) -> None:
        """Whatever is wrong with one campaign, the leases of the others must be extended."""
        try:
            step()
        except GiveUp:
            raise
        except Exception as error:
            self._complaints.add(f"the heartbeat of campaign {campaign} failed, trying again", error)
            self._book.cannot_serve(campaign, str(error))

    def _show_life(self, reasons: dict[str, str]) -> tuple[list[str], bool]:
        name = self._options.name
        told = dict(sorted(reasons.items())[:MOST_REFUSALS])
        card = WorkerCard(
            name=name, host=socket.gethostname(), machine=self._machine, pid=os.getpid(),
            created=self._created, born=self._born, slots=self._options.slots,
            campaigns=self._options.campaigns,
            queues=self._options.queues, state="draining" if self.is_draining else "running",
            lease_s=self._options.lease_s, busy=self._book.busy_slots(),
            refused={campaign: " ".join(why.split())[:MOST_REASON] for campaign, why in told.items()},
            **self._allotted,
        ).encode()  # fmt: skip

        def operation(client: Any) -> list[Any]:
            now_s, micros = client.time()
            pipeline = client.pipeline(transaction=False)
            pipeline.set(keys.worker_key(name), card, px=CARD_LEASES * self._lease_ms)
            pipeline.zadd(keys.WORKERS, {name: now_s * 1000 + micros // 1000})
            pipeline.hset(keys.machine_key(self._machine), name, f"{os.getpid()} {self._born}")
            pipeline.sismember(keys.DRAIN, name)
            if self._options.campaigns is None:
                pipeline.zrange(keys.CAMPAIGNS, 0, -1)
            # What is damaged in the registries must not cost anybody a lease.
            return undamaged(pipeline.execute(raise_on_error=False))

        replies = self._link.call(operation)
        if self._options.campaigns is not None:
            return list(self._options.campaigns), bool(replies[3])
        names = (campaign.decode(errors="replace") for campaign in replies[4] or ())
        return [campaign for campaign in names if keys.is_campaign_name(campaign)], bool(replies[3])

    def _extend(self, served: Served, tokens: list[tuple[int, int]]) -> None:
        try:
            reply = served.queue.extend(self._options.name, self._lease_ms, tokens)
        except CampaignNotFoundError:
            self._book.leave(served.name)
            return
        # By token: the job may have come back to this very worker as another attempt.
        sent = dict(tokens)
        if reply.finished:
            log.debug("jobs %s of %s are finished", reply.finished, served.name)
            self._runner.forget(served.lane, [(job, sent[job]) for job in reply.finished], begun=True)
        if reply.taken:
            # What has begun goes on: its success still counts if it comes first.
            log.debug("leases of jobs %s of %s are held no more", reply.taken, served.name)
            self._runner.forget(served.lane, [(job, sent[job]) for job in reply.taken], begun=False)
        self._release_unknown(served, reply.unknown)
        if self._book.is_done_with(served):
            log.info("campaign %s is served no more", served.name)
            with suppress(CampaignNotFoundError):
                served.queue.release(self._options.name, [], leave=True)
            self._book.leave(served.name)
        elif reply.revision != served.plan.revision:
            self._look_at(served.name)

    def _release_unknown(self, served: Served, unknown: list[tuple[int, int]]) -> None:
        """What the server thinks is held here, and nobody here knows of, because it has gone back in time (a
        power cut, a failover): settle again what is remembered, give back the rest after a whole lease."""
        now = time.monotonic()
        known = served.tokens
        if again := self._book.settle_again(served, unknown):
            log.warning("jobs %s of %s are held here once more: settled again", again, served.name)
            unknown = [token for token in unknown if token not in again]
        seen = self._unknown.get(served.name, {})
        still = {token: seen.get(token, now) for token in unknown if known.get(token[0]) != token[1]}
        lost = [token for token, since in still.items() if now - since > self._options.lease_s]
        if lost:
            log.warning("jobs %s of %s are held here unknown to us: given back", lost, served.name)
            reason = "unknown here since the server went back in time"
            served.queue.release(self._options.name, [Release(*token, reason) for token in lost])
        self._unknown[served.name] = {token: at for token, at in still.items() if token not in lost}

    def _look_at(self, campaign: str) -> None:
        """Serve a campaign, unless it is not there, or not for this worker."""
        # Not the whole meta at each beat: of a campaign that is for others it may be megabytes of code.
        meta_key = keys.Keys(campaign).meta
        known = self._link.call(lambda client: client.hmget(meta_key, "uid", "revision"))
        uid, revision = (known[0] or b"").decode(errors="replace"), _revision(known[1])
        if self._book.is_refused(campaign, uid, revision):
            return
        try:
            queue, meta = CampaignQueue.attach(self._link, campaign)
        except CampaignNotFoundError:
            return
        except (ServerRefusedError, DamagedError) as error:
            self._refuse(campaign, uid, revision, error)
            return
        revision = int(meta["revision"])
        if not self._options.serves(campaign, label_of(meta)):
            self._book.refuse(campaign, queue.uid, revision)
            self._book.withdraw(campaign)
            return
        try:
            plan = make_plan(queue, meta, self._options, self._link.access)
        except (FunctionError, MethodUnavailableError) as error:
            self._refuse(campaign, queue.uid, revision, error)
            return
        self._book.serve(queue, plan)

    def _refuse(self, campaign: str, uid: str, revision: int, error: Exception) -> None:
        log.error("campaign %s is not served: %s", campaign, error)
        self._book.refuse(campaign, uid, revision, str(error))
        # What runs is of an opening that was accepted: it is finished.
        self._book.withdraw(campaign)


def _allotted(options: WorkerOptions) -> dict[str, Any]:
    """The fields of the card that tell of the allocation."""
    allocation = options.allocation
    if allocation is None:
        return {}
    return {
        "scheduler": allocation.scheduler, "scheduler_job": allocation.job_id, "node": allocation.node,
        "restarts": allocation.restarts, "allocation_ends": options.allocation_ends_at,
    }  # fmt: skip


def _revision(said: bytes | None) -> int:
    return int(said) if said is not None and said.isdigit() else -1
