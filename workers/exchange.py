"""The one thread that trades with the queue: settlements against leases, in one call, as they come.

::

    runner ──ended──▶ outbox ──┐                         ┌──▶ runner.submit
                               ├──▶ settle (one call) ──▶│
    listener ──"work"──▶ wants ┘                         └──▶ arms the listener when nothing was left

While one call is under way, what ends meanwhile collects for the next: batches grow under load and vanish
when idle. While the server is away the call waits, and what it carries is spooled.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence

from queue_eval.connection import Link
from queue_eval.errors import CampaignNotFoundError, FunctionError, MethodUnavailableError
from queue_eval.moves import Lease, Settled, Settlement
from queue_eval.queue import CampaignQueue
from workers.executors.protocol import Attempt, Ended, Plan, Token
from workers.options import WorkerOptions
from workers.runner import Runner
from workers.served import Served, make_plan
from workers.spool import Spool

log = logging.getLogger(__name__)

_BATCH = 512
_BATCH_BYTES = 8 * 2**20

_PREFETCH_MS = 50.0
"""About so much work per slot is held in advance, while all jobs of late were short."""

_PREFETCH_LONGEST_MS = 100.0
_PREFETCH_MOST = 256

_WAITED_TOO_LONG_S = 1.0
"""What was prefetched and has not begun for so long is given back: others may be idle."""


class Exchange:
    """Settles and leases for all campaigns this worker serves.

    Guarantees: every lease taken is settled, released, or known to be somebody else's before `run` returns
    (unless it is killed). Assumes: `Link.call` may wait for ever; then the other threads go on.
    """

    def __init__(self, link: Link, options: WorkerOptions, spool: Spool | None) -> None:
        self._link = link
        self._options = options
        self._lease_ms = round(options.lease_s * 1000)
        self._spool = spool
        self._runner: Runner | None = None
        self._changed = threading.Condition()
        self._served: dict[str, Served] = {}
        self._refused: dict[str, int] = {}
        self._to_release: list[tuple[Served, list[tuple[int, int, bool]]]] = []
        self._in_flight: tuple[CampaignQueue, Sequence[Settlement]] | None = None
        # Request ids are unique over all lives of a worker's name.
        self._life = secrets.token_hex(4)
        self._requests = itertools.count(1)
        self._draining = False
        self._stopped = False
        self._turn = 0
        self._idle_since = time.monotonic()
        self._took_back_at = time.monotonic()
        self.armed = threading.Event()
        """Set while some campaign has nothing left for a worker that has room: block on its marker."""

    # Other threads --------------------------------------------------------------------------------------

    def attach_runner(self, runner: Runner) -> None:
        self._runner = runner

    def ended(self, campaign: str, attempts: list[Ended], missing_slots: int) -> None:
        """Runner: these attempts have ended."""
        with self._changed:
            served = self._served.get(campaign)
            if served is None:
                return
            for one in attempts:
                job, attempt = one.token
                served.pace.add(one.slot_ms)
                served.outbox.append(
                    Settlement(
                        job, attempt, one.outcome, one.run_ms, one.ended_at, one.source, one.body, one.output
                    )
                )
            served.in_hand -= len(attempts)
            served.missing_slots = missing_slots
            self._changed.notify()

    def given_up(self, campaign: str, tokens: list[Token], *, release: bool) -> None:
        """Runner: these attempts will not end."""
        with self._changed:
            served = self._served.get(campaign)
            if served is None:
                return
            served.in_hand -= len(tokens)
            if release:
                self._to_release.append((served, [(job, attempt, False) for job, attempt in tokens]))
            for job, attempt in tokens:
                if served.tokens.get(job) == attempt:
                    del served.tokens[job]
            self._changed.notify()

    def wanted(self, campaign: str | None) -> None:
        """Listener: this campaign (or any of them) may have work."""
        with self._changed:
            for served in self._served.values() if campaign is None else [self._served.get(campaign)]:
                if served is not None:
                    served.may_have_work = True
            self._changed.notify()

    def wake_keys(self) -> dict[str, str]:
        """The markers to block on: key -> campaign."""
        with self._changed:
            return {served.queue.keys.wake: name for name, served in self._served.items()}

    def serve(self, queue: CampaignQueue, plan: Plan) -> None:
        """Keeper: serve this campaign too, or with another plan."""
        with self._changed:
            served = self._served.get(queue.campaign)
            if served is not None and served.queue.uid == queue.uid:
                served.plan = plan
            else:
                self._served[queue.campaign] = Served(queue, plan)
            self._served[queue.campaign].may_have_work = True
            self._refused.pop(queue.campaign, None)
            self._changed.notify()

    def leave(self, campaign: str) -> None:
        """The campaign is gone: forget it and all of its jobs."""
        with self._changed:
            if self._served.pop(campaign, None) is None:
                return
        log.warning("campaign %s is gone; its jobs are stopped", campaign)
        if self._runner is not None:
            self._runner.drop(campaign)

    def refuse(self, campaign: str, revision: int) -> None:
        """Remember that a campaign in this state is not to be served here."""
        with self._changed:
            self._refused[campaign] = revision

    def refused_revision(self, campaign: str) -> int | None:
        with self._changed:
            return self._refused.get(campaign)

    def holdings(self) -> list[tuple[Served, list[Token]]]:
        """Every campaign served, with the tokens held."""
        with self._changed:
            return [(served, list(served.tokens.items())) for served in self._served.values()]

    def drain(self) -> None:
        """Lease no more; `run` returns when all that has begun is settled."""
        with self._changed:
            self._draining = True
            self._changed.notify()
        if self._runner is not None:
            self._runner.take_back()

    def stop(self) -> None:
        """Make `run` return at its next turn."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def idle_s(self) -> float:
        """How long nothing has run here."""
        with self._changed:
            if any(served.in_hand or served.outbox for served in self._served.values()):
                self._idle_since = time.monotonic()
            return time.monotonic() - self._idle_since

    def running(self) -> int:
        with self._changed:
            return sum(served.in_hand for served in self._served.values())

    def while_away(self) -> None:
        """Link: the server is away. Everything that has ended goes to disk."""
        if self._spool is None:
            return
        with self._changed:
            waiting: list[tuple[CampaignQueue, Sequence[Settlement]]] = [
                (served.queue, list(served.outbox)) for served in self._served.values()
            ]
            if self._in_flight is not None:
                waiting.append(self._in_flight)
        for queue, settlements in waiting:
            self._spool.keep(queue, settlements)

    # The exchange's own thread --------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not self._is_drained() and not self._has_business():
                    self._changed.wait(self._pause())
                if self._stopped or self._is_drained():
                    return
                releases, self._to_release = self._to_release, []
                turn = self._choose()
            for served, tokens in releases:
                self._release(served, tokens)
            self._give_back_what_waits()
            for served in turn:
                self._trade(served)

    def _is_drained(self) -> bool:
        busy = any(served.in_hand or served.outbox for served in self._served.values())
        return self._draining and not busy and not self._to_release

    def _has_business(self) -> bool:
        return bool(self._to_release) or bool(self._choose())

    def _choose(self) -> list[Served]:
        """The campaigns to trade with now, in turn, so that none starves."""
        now = time.monotonic()
        chosen = []
        for served in self._served.values():
            if served.due_at is not None and served.due_at <= now:
                served.may_have_work, served.due_at = True, None
            if served.outbox or (served.may_have_work and sum(self._wishes(served)) > 0):
                chosen.append(served)
        self._turn += 1
        shift = self._turn % len(chosen) if chosen else 0
        return chosen[shift:] + chosen[:shift]

    def _pause(self) -> float | None:
        due = [served.due_at for served in self._served.values() if served.due_at is not None]
        waiting = any(served.in_hand > served.plan.slots for served in self._served.values())
        pauses = [max(0.0, at - time.monotonic()) for at in due] + [_WAITED_TOO_LONG_S] * waiting
        return min(pauses, default=None)

    def _wishes(self, served: Served) -> tuple[int, int]:
        """How many jobs to ask for: to begin at once, and to hold behind short ones."""
        if self._draining:
            return 0, 0
        slots = self._options.slots - served.missing_slots
        in_hand = sum(other.in_hand for other in self._served.values())
        rivals = sum(1 for other in self._served.values() if other.in_hand or other.may_have_work)
        # Slots are shared fairly between campaigns that have work, and whole when there is only one.
        share = -(-slots // rivals) if rivals > 1 else slots
        room = max(0, min(slots - in_hand, share - served.in_hand))
        if rivals > 1:
            return room, 0
        per_slot = served.pace.fitting(_PREFETCH_MS, longest_ms=_PREFETCH_LONGEST_MS, most=_PREFETCH_MOST)
        ahead = min(per_slot * slots, 2 * _PREFETCH_MOST)
        return room, max(0, ahead - max(0, served.in_hand - slots))

    def _trade(self, served: Served) -> None:
        with self._changed:
            settlements = _take_batch(served)
            room, prefetch = self._wishes(served)
            self._in_flight = (served.queue, settlements)
        request = f"{self._life}-{next(self._requests)}"
        try:
            reply = served.queue.settle(
                self._options.name, settlements, lease_ms=self._lease_ms, request=request,
                room=room, prefetch=prefetch, now=time.monotonic(),
            )  # fmt: skip
            plan = served.plan
            if reply.leases and reply.revision != plan.revision:
                plan = self._current_plan(served)
        except CampaignNotFoundError:
            self.leave(served.name)
            return
        except (FunctionError, MethodUnavailableError) as error:
            log.error("campaign %s is not served: %s", served.name, error)
            self._release(served, [(lease.id, lease.attempt, False) for lease in reply.leases])
            with self._changed:
                self._served.pop(served.name, None)
                self._refused[served.name] = reply.revision
            return
        self._note(served, settlements, reply)
        self._take_on(served, plan, reply, asked=room + prefetch)

    def _note(self, served: Served, settlements: Sequence[Settlement], reply: Settled) -> None:
        with self._changed:
            self._in_flight = None
            for settlement in settlements:
                if served.tokens.get(settlement.id) == settlement.attempt:
                    del served.tokens[settlement.id]
            quiet = not any(other.outbox for other in self._served.values())
        if quiet and self._spool is not None:
            self._spool.clear()
        for settlement, verdict in zip(settlements, reply.verdicts, strict=True):
            log.debug("job %d attempt %d of %s: %s, %s", settlement.id, settlement.attempt, served.name,
                      settlement.outcome, verdict)  # fmt: skip

    def _take_on(self, served: Served, plan: Plan, reply: Settled, *, asked: int) -> None:
        leases = reply.leases
        with self._changed:
            served.plan = plan
            for lease in leases:
                served.tokens[lease.id] = lease.attempt
            served.in_hand += len(leases)
            if leases:
                self._idle_since = time.monotonic()
            if asked > 0:
                served.may_have_work = len(leases) >= asked
            if reply.next_due_ms is not None:
                served.due_at = time.monotonic() + max(0, reply.next_due_ms - reply.now_ms) / 1000
            nothing_left = not served.may_have_work
        if leases:
            self._sign_roster(served)
            assert self._runner is not None
            self._runner.submit(served.name, plan, [_attempt(lease) for lease in leases])
        if nothing_left and not self._draining:
            self.armed.set()

    def _current_plan(self, served: Served) -> Plan:
        return make_plan(served.queue, served.queue.meta(), self._options, self._link.access.key)

    def _give_back_what_waits(self) -> None:
        now = time.monotonic()
        if now - self._took_back_at > _WAITED_TOO_LONG_S and self._runner is not None:
            self._took_back_at = now
            self._runner.take_back(_WAITED_TOO_LONG_S)

    def _release(self, served: Served, tokens: Sequence[tuple[int, int, bool]]) -> None:
        try:
            served.queue.release(self._options.name, tokens)
        except CampaignNotFoundError:
            self.leave(served.name)

    def _sign_roster(self, served: Served) -> None:
        if not served.is_on_roster:
            who = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            key = served.queue.keys.column("roster")
            self._link.call(lambda client: client.hset(key, self._options.name, who))
            served.is_on_roster = True

    def finish(self, left: dict[str, tuple[list[Token], list[Token]]]) -> None:
        """Settle what has ended, release what the closed runner had `left` (running, waiting), and leave."""
        with self._changed:
            everything = list(self._served.values())
        for served in everything:
            running, waiting = left.get(served.name, ([], []))
            tokens = [(*token, True) for token in running] + [(*token, False) for token in waiting]
            try:
                while served.outbox:
                    batch = _take_batch(served)
                    self._in_flight = (served.queue, batch)
                    served.queue.settle(
                        self._options.name, batch, lease_ms=0, request="", room=0, prefetch=0,
                        now=time.monotonic(),
                    )  # fmt: skip
                served.queue.release(self._options.name, tokens, leave=True)
            except CampaignNotFoundError:
                continue
        self._in_flight = None
        for served, released in self._to_release:
            self._release(served, released)
        if self._spool is not None:
            self._spool.clear()


def _take_batch(served: Served) -> list[Settlement]:
    batch: list[Settlement] = []
    size = 0
    while served.outbox and len(batch) < _BATCH and size < _BATCH_BYTES:
        settlement = served.outbox.popleft()
        size += len(settlement.body) + len(settlement.output)
        batch.append(settlement)
    return batch


def _attempt(lease: Lease) -> Attempt:
    return Attempt((lease.id, lease.attempt), lease.config)
