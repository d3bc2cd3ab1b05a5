"""The heartbeat: extends all leases, shows that this worker lives, and learns of changes on the server.

Its thread does nothing that can take long, so that a busy settler or a stuck child never costs a lease.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psutil

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import CARD_LEASES, MAX_CARD_REFUSALS, MAX_REASON_CHARACTERS, WorkerCard
from queue_eval.errors import CampaignNotFoundError, GiveUp, NodeAwayError
from queue_eval.foreign_text import plain
from queue_eval.machine import birth_of, machine_id
from queue_eval.model.moves import Extended, Release
from queue_eval.runtime.notices import STOP
from queue_eval.server.home_loss import HomeLoss
from queue_eval.transport.clients import node_of
from queue_eval.transport.error_kinds import undamaged
from queue_eval.transport.link import Link
from queue_eval.transport.script_calls import KeyCommand
from workers.host_use import HostUse
from workers.options import WorkerOptions
from workers.repeated_log import RepeatedLog
from workers.resources import joined
from workers.rounds import Rounds
from workers.runner import Runner
from workers.state.served_campaign import ServedCampaign
from workers.state.worker_state import WorkerState

log = plain(logging.getLogger(__name__))


class LeaseKeeper:
    """Beats every third of a lease, and at once when poked. `start` and `stop` may be called twice."""

    def __init__(
        self, link: Link, options: WorkerOptions, state: WorkerState, runner: Runner, *,
        on_drain: Callable[[], None],
    ) -> None:  # fmt: skip
        self._link = link
        self._options = options
        self._state = state
        self._runner = runner
        self._on_drain = on_drain
        self._lease_ms = round(options.lease_s * 1000)
        self._repeated_log = RepeatedLog(log)
        self._poked = threading.Event()
        self._is_beat_wanted = False
        self._lock = threading.Lock()
        self._with_stops: set[str] = set()
        """Campaigns some of whose jobs here were asked to stop early."""
        self._stopped = threading.Event()
        self.is_draining = False
        self._machine = machine_id()
        self._created = psutil.Process().create_time()
        self._born = birth_of(os.getpid())
        self._allotted = _allotted(options)
        drains_at = state.drains_at
        self._longest_job_s = None if drains_at is None else max(0, int(drains_at - time.monotonic()))
        self._use = HostUse(_gpus_of(options))
        self._home = HomeLoss(link.access.home)
        self._rounds = Rounds(link, options, state, self._try)
        self._thread = threading.Thread(target=self._work, name="lease-keeper", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def poke(self) -> None:
        """Beat now: something has changed."""
        self._is_beat_wanted = True
        self._poked.set()

    def hear(self, campaigns: set[str]) -> None:
        """Beat now: notices have come, which may name these campaigns."""
        self._rounds.hear(campaigns)
        self.poke()

    def hear_stop(self, campaigns: set[str]) -> None:
        """Look now, in these campaigns only, which jobs are to stop early."""
        with self._lock:
            self._with_stops |= campaigns
        self._poked.set()

    def stop(self) -> None:
        """Beat no more, and wait for a beat that is under way."""
        self._stopped.set()
        self._poked.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def sign_off(self) -> None:
        """Take this worker off the registries. Called once, when it holds nothing any more."""
        name = self._options.name

        machine = keys.machine_key(self._machine)
        replies = self._link.ask_each(
            [
                (keys.worker_key(name), ("DEL", keys.worker_key(name))),
                (keys.nudge_key(name), ("DEL", keys.nudge_key(name))),
                (keys.WORKERS, ("ZREM", keys.WORKERS, name)),
                (keys.DRAIN, ("SREM", keys.DRAIN, name)),
                (machine, ("HDEL", machine, name)),
            ]
        )
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NodeAwayError):
                raise reply

    def beat(self) -> None:
        """One heartbeat."""
        if (loss := self._home.tell()) is not None:
            log.warning("%s", loss)
        reasons = self._state.campaigns.reasons()
        # First extend the leases: the rest may wait for a node of a cluster that is away.
        self._extend_all()
        began_at = time.monotonic()
        campaigns, drain_asked = self._show_life(reasons)
        if time.monotonic() - began_at > self._options.lease_s / 3:
            self._extend_all()  # it has waited for a node: the leases on the others must not end for that
        if campaigns is not None:
            self._state.campaigns.forget_unlisted(campaigns)
        try:
            self._rounds.go([*(campaigns or ()), *self._rounds.wake()])
        except NodeAwayError as error:
            self._repeated_log.add("the rounds could not be ended", error)
        if self._state.campaigns.reasons() != reasons:
            self.poke()  # drivers wait for these reasons
        if drain_asked and not self.is_draining:
            log.info("asked to drain")
            self._on_drain()

    def _work(self) -> None:
        with suppress(GiveUp):
            while not self._stopped.is_set():
                if not self._goes_on_after(self.beat):
                    self._stopped.wait(1.0)
                self._goes_on_after(self._wait)

    def _goes_on_after(self, step: Callable[[], None]) -> bool:
        """Whether `step` went well. If not, that is logged: the heartbeat must not stop while jobs run."""
        try:
            step()
        except GiveUp:
            raise
        except Exception as error:
            self._repeated_log.add("the heartbeat failed, trying again", error)
            return False
        return True

    def _wait(self) -> None:
        """Wait for the next beat: a third of a lease, or until it is wanted."""
        until = time.monotonic() + self._options.lease_s / 3
        while not (self._is_beat_wanted or self._stopped.is_set()):
            if (left := until - time.monotonic()) <= 0:
                break
            self._poked.wait(left)
            self._poked.clear()
            with self._lock:
                campaigns, self._with_stops = self._with_stops, set()
            if campaigns and not self._stopped.is_set():
                self._extend_all(campaigns)
        self._is_beat_wanted = False

    def _try(self, campaign: str, step: Callable[[], None]) -> None:
        """Run `step`, and log an error of it: the leases of the other campaigns must be extended."""
        try:
            step()
        except GiveUp:
            raise
        except Exception as error:
            self._repeated_log.add(f"the heartbeat of campaign {campaign} failed, trying again", error)
            if not isinstance(error, NodeAwayError):  # the driver waits for the same node
                self._state.campaigns.cannot_serve(campaign, str(error))

    def _show_life(self, reasons: dict[str, str]) -> tuple[list[str] | None, bool]:
        """Write this worker's card. Returns the campaigns to look at and whether to drain.

        The campaigns are None while they cannot be listed.
        """
        name = self._options.name
        # The newest refusals: abandoned campaigns stay listed, and must not hide one whose driver waits.
        refusals = list(reasons.items())[-MAX_CARD_REFUSALS:]
        card = WorkerCard(
            name=name, host=socket.gethostname(), machine=self._machine, pid=os.getpid(),
            created=self._created, born=self._born, slots=self._options.slots,
            campaigns=self._options.campaigns,
            queues=self._options.queues, state="draining" if self.is_draining else "running",
            longest_job_s=self._longest_job_s,
            lease_s=self._options.lease_s, busy=self._state.busy_slots(), launch=self._options.launch,
            refused={campaign: " ".join(why.split())[:MAX_REASON_CHARACTERS] for campaign, why in refusals},
            **self._use.newest(), **self._allotted,
        ).encode()  # fmt: skip

        machine = keys.machine_key(self._machine)
        commands: list[KeyCommand] = [
            (keys.worker_key(name), ("SET", keys.worker_key(name), card, "PX", CARD_LEASES * self._lease_ms)),
            (machine, ("HSET", machine, name, f"{os.getpid()} {self._born}")),
            (keys.DRAIN, ("SISMEMBER", keys.DRAIN, name)),
        ]
        with suppress(NodeAwayError):
            now_s, micros = self._link.call(lambda client: client.time(**node_of(client, keys.WORKERS)))
            seen_ms = now_s * 1000 + micros // 1000
            commands.append((keys.WORKERS, ("ZADD", keys.WORKERS, seen_ms, name)))
        # On a cluster these keys lie on different nodes. A node that is away is left out this time.
        replies = self._link.ask_each(commands + self._rounds.asks())
        if self._rounds.is_barred(replies[-1]):
            return self._show_life(reasons)
        is_listed = self._options.campaigns is not None or not isinstance(replies[-1], NodeAwayError)
        # Damaged registries must not cost any worker a lease.
        seen = undamaged([None if isinstance(reply, NodeAwayError) else reply for reply in replies])
        return self._rounds.listed(seen[-1]) if is_listed else None, bool(seen[2])

    def _extend_all(self, only: Container[str] | None = None) -> None:
        holdings = self._state.campaigns.holdings()
        if only is not None:
            holdings = [(served, tokens) for served, tokens in holdings if served.name in only]
        held = [(served.queue, tokens) for served, tokens in holdings]
        replies: Sequence[Extended | Exception]
        try:
            replies = CampaignCommands.extend_all(self._link, self._options.name, self._lease_ms, held)
        except GiveUp:
            raise
        except Exception as error:  # such as refused scripts: the card says why nothing is served
            replies = [error] * len(held)
        for (served, tokens), reply in zip(holdings, replies, strict=True):
            self._try(served.name, partial(self._learn, served, tokens, reply))

    def _learn(
        self, served: ServedCampaign, tokens: list[tuple[int, int]], reply: Extended | Exception
    ) -> None:
        if isinstance(reply, CampaignNotFoundError):
            self._state.campaigns.leave(served.name)
            return
        if isinstance(reply, Exception):
            raise reply
        # Stop tokens, not jobs: a job may have come back to this very worker as another attempt.
        sent = dict(tokens)
        if reply.finished:
            log.debug("jobs %s of %s are finished", reply.finished, served.name)
            self._note_over(served, reply.finished)
            self._runner.stop(served.lane_id, [(job, sent[job]) for job in reply.finished])
        if reply.stops:
            self._runner.notify(served.lane_id, [(job, sent[job]) for job in reply.stops], STOP)
        if reply.taken:
            # Attempts that have begun go on: their success still counts if it comes first.
            log.debug("leases of jobs %s of %s are held no more", reply.taken, served.name)
            self._runner.forget(served.lane_id, [(job, sent[job]) for job in reply.taken], begun=False)
        self._release_unknown(served, reply.unknown)
        if self._state.is_done_with(served):
            log.info("campaign %s is served no more", served.name)
            with suppress(CampaignNotFoundError):
                served.queue.release(self._options.name, [], leave=True)
            self._state.campaigns.leave(served.name)
        elif reply.revision != served.plan.revision:
            self._rounds.look_at(served.name)

    def _note_over(self, served: ServedCampaign, finished: Sequence[int]) -> None:
        """Have checkpoints removed that no attempt will need, once the attempts here have ended. Those of a
        failed job stay, for `retry`."""
        for job in self._state.with_checkpoints(served, finished):
            if not CampaignCommands(self._link, served.name, served.queue.uid).may_retry(job):
                self._state.note_over(served, job)

    def _release_unknown(self, served: ServedCampaign, unknown: list[tuple[int, int]]) -> None:
        """Deal with leases that only the server knows: it has gone back in time (a power cut, a failover).

        Settle again what is remembered, and give back the rest after a whole lease."""
        now = time.monotonic()
        known = served.held.tokens
        if again := self._state.settle_again(served, unknown):
            log.warning("jobs %s of %s are held here once more: settled again", again, served.name)
            unknown = [token for token in unknown if token not in again]
        seen = served.unknown_since
        still = {token: seen.get(token, now) for token in unknown if known.get(token[0]) != token[1]}
        lost = [token for token, since in still.items() if now - since > self._options.lease_s]
        if lost:
            log.warning("jobs %s of %s are held here unknown to us: given back", lost, served.name)
            reason = "unknown here since the server went back in time"
            served.queue.release(self._options.name, [Release(*token, reason) for token in lost])
        served.unknown_since = {token: at for token, at in still.items() if token not in lost}


def _gpus_of(options: WorkerOptions) -> tuple[str, ...]:
    """Those that its slots own."""
    return joined(options.board.means).gpus if options.board is not None else ()


def _allotted(options: WorkerOptions) -> dict[str, Any]:
    """The fields of the card that describe the allocation."""
    allocation = options.allocation
    if allocation is None:
        return {}
    return {
        "scheduler": allocation.scheduler, "scheduler_job": allocation.job_id, "node": allocation.node,
        "restarts": allocation.restarts, "allocation_ends": options.allocation_ends_at,
    }  # fmt: skip
