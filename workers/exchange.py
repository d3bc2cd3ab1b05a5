"""The one thread that trades with the queue: settlements against leases, in one call, as they come.

::

    runner ──ended──▶ book ──┐                         ┌──▶ runner.submit
                             ├──▶ settle (one call) ──▶│
    listener ─"work"▶ book ──┘                         └──▶ arms the listener when nothing was left

While one call is under way, what ends meanwhile collects for the next: batches grow under load and vanish
when idle. While the server is away the call waits, and what it carries is spooled.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from queue_eval import failpoints
from queue_eval.campaign.commands import CampaignQueue
from queue_eval.errors import (
    CampaignNotFoundError,
    DamagedError,
    FunctionError,
    GiveUp,
    MethodUnavailableError,
    NodeAwayError,
    ServerRefusedError,
)
from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Attempt, Token
from queue_eval.model.moves import Lease, Release, Settled, Settlement
from queue_eval.transport.link import Link
from workers.book import Book, Trade
from workers.complaints import Complaints
from workers.executors.protocol import Plan
from workers.load_failures import LoadFailures
from workers.loads import Unloaded
from workers.options import WorkerOptions
from workers.runner import Runner
from workers.served import Served, label_of, make_plan
from workers.spool import Spool

log = plain(logging.getLogger(__name__))


class Exchange:
    """Settles and leases for all campaigns in the book.

    Guarantees: every lease taken is settled, released, or known to be somebody else's once `run` and
    `finish` have returned; what a damaged campaign does not take is in the spool, or expires. Assumes:
    `Link.call` may wait for ever; then the other threads go on.
    """

    def __init__(
        self, link: Link, options: WorkerOptions, book: Book, runner: Runner, spool: Spool | None,
        load_failures: LoadFailures,
    ) -> None:  # fmt: skip
        self._link = link
        self._options = options
        self._lease_ms = round(options.lease_s * 1000)
        self._book = book
        self._runner = runner
        self._spool = spool
        self._load_failures = load_failures
        self._in_flight: tuple[CampaignQueue, Sequence[Settlement]] | None = None
        # "<life>-<number>": unique over all lives of a worker's name, and growing within one, so that the
        # server can tell a call that was overtaken.
        self._life = secrets.token_hex(4)
        self._number = 0
        self._server_ahead_ms = (time.time() - time.monotonic()) * 1000
        """How far the server's clock is ahead of the monotonic one here; at first a guess."""
        self._complaints = Complaints(log)
        self._stopped = False
        self.armed = threading.Event()
        """Set while some campaign has nothing left for a worker that has room: block on its marker."""
        self.on_nothing_left: Callable[[Link], None] | None = None
        """Called when that begins: who blocks already may do so without that marker."""

    def stop(self) -> None:
        """Make `run` return at its next turn."""
        with self._book.changed:
            self._stopped = True
            self._book.changed.notify()

    def spool(self) -> None:
        """The server is away: everything that has ended goes to disk. Called in the exchange's thread."""
        if self._spool is None:
            return
        for queue, settlements in self._waiting():
            self._spool.keep(queue, settlements)

    def run(self) -> None:
        """Trade until drained or stopped."""
        book = self._book
        while True:
            with book.changed:
                while not (self._stopped or book.is_drained() or book.has_business()):
                    book.changed.wait(book.pause())
                if self._stopped or book.is_drained():
                    return
            for served, unloaded in book.take_unloaded():
                self._judge(served, unloaded)
            for served in book.with_untold_loads():
                self._try_to_tell_load(served)
            self._release_due()
            for served in book.take_turn():
                if (trade := book.prepare(served)) is not None:
                    self._trade(trade)

    def finish(self, left: dict[str, list[Token]], reason: str) -> None:
        """Settle what has ended, release all else that is held, and leave. `left` was running when the
        runner closed, and is given back for `reason`; what was leased too late to reach it is held, too."""
        self._book.decide()
        self._release_due()
        owing = {queue.uid for queue, batch in self._book.unsettled() if batch}
        idle: list[CampaignQueue] = []
        done: list[bool] = []
        for served, held in self._book.holdings():
            if held or served.unanswered or served.queue.uid in owing:
                done.append(self._finish(served, held, left.get(served.lane, []), reason))
            else:
                idle.append(served.queue)
        self._leave(idle)
        if self._spool is None:
            return
        if all(done) and not self._book.unreleased():
            self._spool.clear()
            return
        self.spool()
        for served, releases in self._book.unreleased():
            self._spool.keep(served.queue, releases)

    def keep_rest(self, left: dict[str, list[Token]], reason: str) -> int:
        """The server is away at the end: what has ended goes to disk, and what is given back instead of
        `finish`. How many leases are given back so; their jobs would be charged when they expire.

        Assumes: the exchange's thread has ended.
        """
        if self._spool is None:
            return 0
        self._book.decide()
        self.spool()
        ended: dict[str, set[Token]] = {}
        for queue, batch in self._waiting():
            ended.setdefault(queue.uid, set()).update((one.id, one.attempt) for one in batch)
        given_back = [
            (served, _rest(held, ended.get(served.queue.uid, ()), left.get(served.lane, ()), reason))
            for served, held in self._book.holdings()
        ]
        given_back += self._book.unreleased()
        for served, releases in given_back:
            self._spool.keep(served.queue, releases)
        return sum(len(releases) for _, releases in given_back)

    # ----------------------------------------------------------------------------------------------------

    def _waiting(self) -> list[tuple[CampaignQueue, Sequence[Settlement]]]:
        """What has ended and is not acknowledged."""
        waiting: list[tuple[CampaignQueue, Sequence[Settlement]]] = [*self._book.unsettled()]
        if self._in_flight is not None:
            waiting.append(self._in_flight)
        return waiting

    def _finish(
        self, served: Served, held: Sequence[Token], running: Sequence[Token], reason: str
    ) -> bool:
        """Whether a campaign has been told everything."""
        settled: set[Token] = set()
        batch: Sequence[Settlement] = ()
        try:
            while batch := self._book.take_batch(served):
                self._settle(served, batch, lease_ms=0)
                settled.update((one.id, one.attempt) for one in batch)
            held = [*held, *self._unknown_leases(served)]
            releases = _rest(held, settled, running, reason)
            self._queue(served).release(self._options.name, releases, leave=True)
            _log_releases(served, releases)
        except CampaignNotFoundError:
            return True
        except GiveUp:
            raise
        except Exception as error:
            self._complaints.add(f"campaign {served.name} cannot be left in order", error)
            self._book.put_off(served, batch)
            if isinstance(error, NodeAwayError):
                self._keep(served, [*batch, *self._rest_of(served, held, settled, running, reason)])
            return False
        return True

    def _unknown_leases(self, served: Served) -> list[Token]:
        """What a call without a reply has leased, as far as that is known now: it is given back, too."""
        if not served.unanswered:
            return []
        reply = self._settle(served, (), lease_ms=self._lease_ms)
        return [(lease.id, lease.attempt) for lease in reply.leases]

    def _rest_of(
        self, served: Served, held: Sequence[Token], settled: Container[Token], running: Sequence[Token],
        reason: str,
    ) -> list[Release]:  # fmt: skip
        ended = {(one.id, one.attempt) for queue, batch in self._book.unsettled() for one in batch
                 if queue.uid == served.queue.uid}  # fmt: skip
        return [one for one in _rest(held, settled, running, reason) if (one.id, one.attempt) not in ended]

    def _keep(self, served: Served, leases: Sequence[Settlement | Release]) -> None:
        """The node of this campaign is away: what became of these leases goes to disk."""
        if self._spool is not None:
            self._spool.keep(served.queue, leases)

    def _leave(self, idle: Sequence[CampaignQueue]) -> None:
        """What has nothing here, in one call: it may be many."""
        try:
            CampaignQueue.leave_all(self._link, self._options.name, idle)
        except GiveUp:
            raise
        except Exception as error:  # the attendance ends with its lease, too
            self._complaints.add(f"{len(idle)} idle campaigns cannot be left in order", error)

    def _trade(self, trade: Trade) -> None:
        served = trade.served
        try:
            reply = self._settle(
                served, trade.settlements, lease_ms=self._lease_ms, room=trade.room, prefetch=trade.prefetch,
                slots=trade.slots,
            )  # fmt: skip
            self._note(trade, reply)
            self._take_on(trade, reply)
        except GiveUp:
            raise
        except CampaignNotFoundError:
            log.warning("campaign %s is gone: its jobs here are stopped", served.name)
            self._book.leave(served.name)
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._complaints.add(f"campaign {served.name} cannot be served for now, trying again", error)
            if isinstance(error, NodeAwayError):
                self._keep(served, trade.settlements)
            else:
                self._book.cannot_serve(served.name, str(error))
            self._book.put_off(served, trade.settlements)
        finally:
            self._book.traded(served)

    def _settle(
        self, served: Served, settlements: Sequence[Settlement], *,
        lease_ms: int, room: int = 0, prefetch: int = 0, slots: int = 0,
    ) -> Settled:  # fmt: skip
        queue = self._queue(served)
        self._in_flight = (queue, settlements)
        # A call that was put off may have run, and have leased jobs that nobody here knows of. Its request,
        # sent again, gets those that are still held under it; a new one would leave them held in vain until
        # the heartbeat gives them back, a lease later. If it has not run, it leases by the room of now. Other
        # campaigns have had later numbers meanwhile, but each campaign only knows its own last one.
        request = served.unanswered or self._new_request()
        try:
            if settlements:
                # First of what code these results are: a driver looks that up once, as it gathers them.
                self._tell_load(served)
            reply = queue.settle(
                self._options.name, settlements, lease_ms=lease_ms, request=request, room=room,
                prefetch=prefetch, slots=slots, now=time.monotonic(),
            )  # fmt: skip
        except CampaignNotFoundError:
            self._in_flight = None  # of a campaign that is gone there is nothing to spool
            raise
        except NodeAwayError:
            if lease_ms:
                served.unanswered = request
            raise
        self._in_flight = None
        self._server_ahead_ms = reply.now_ms - time.monotonic() * 1000
        if lease_ms:
            served.unanswered = ""
        if self._spool is not None:
            self._spool.tell_time(reply.now_ms)
        return reply

    def _new_request(self) -> str:
        # By its number the server knows when a job was leased, should it be cancelled.
        self._number = max(self._number + 1, int(time.monotonic() * 1000 + self._server_ahead_ms))
        return f"{self._life}-{self._number}"

    def _note(self, trade: Trade, reply: Settled) -> None:
        if self._book.settled(trade) and self._spool is not None:
            self._spool.clear()
        if not log.isEnabledFor(logging.DEBUG):
            return
        for settlement, verdict in zip(trade.settlements, reply.verdicts, strict=True):
            log.debug(
                "job %d attempt %d of %s: %s, %s",
                settlement.id, settlement.attempt, trade.served.name, settlement.outcome, verdict,
            )  # fmt: skip

    def _take_on(self, trade: Trade, reply: Settled) -> None:
        served, leases = trade.served, reply.leases
        plan: Plan | None = served.plan
        if leases and reply.revision != served.plan.revision:
            plan = None
            try:
                plan = self._new_plan(served, reply.revision)
            finally:
                if plan is None:  # what was leased has not begun, nor will it here
                    self._release(served, [Release(lease.id, lease.attempt) for lease in leases])
        if plan is None:
            return
        if twins := self._book.known(served, leases):
            self._part(served, twins)
            leases = [lease for lease in leases if lease not in twins]
            reply = replace(reply, leases=leases)
        if leases and self._book.is_draining:
            # The call was under way when it was asked to drain, maybe by a driver that has added these jobs
            # since, for workers with its own environment.
            self._release(served, [Release(lease.id, lease.attempt) for lease in leases])
            return
        nothing_left = self._book.leased(trade, plan, reply)
        if leases:
            # First of all: what is booked and never reaches the runner would take its slots for ever.
            self._runner.submit(served.lane, plan, [_attempt(lease) for lease in leases])
            failpoints.reach("worker.after-lease")
            self._sign_roster(served)
        elif reply.aside and served.is_forwarding:
            # Too wide for the slots of this worker; but those that it forwards to may have more.
            self._runner.submit(served.lane, plan, [])
        if nothing_left:
            self.armed.set()
            if self.on_nothing_left is not None:
                self.on_nothing_left(self._link)

    def _new_plan(self, served: Served, revision: int) -> Plan | None:
        """How the campaign is served since it was opened anew; None: not here."""
        try:
            queue = self._queue(served)
            meta = queue.meta()
            if self._options.serves(served.name, label_of(meta)):
                return make_plan(queue, meta, self._options, self._link.access)
            # It got another label before this worker has looked.
        except (FunctionError, MethodUnavailableError, ServerRefusedError) as error:
            log.error("campaign %s is not served: %s", served.name, error)
            self._book.refuse(served.name, served.queue.uid, revision, str(error))
        # What runs is of an opening that was accepted: it is finished.
        self._book.withdraw(served.name)
        return None

    def _part(self, served: Served, twins: Sequence[Lease]) -> None:
        """What runs here under a token that was given again, for another config, is nobody's any more."""
        foreign = [lease for lease in twins if not self._book.is_leased(served, lease)]
        log.warning(
            "the server has gone back in time: jobs %s of %s are leased again while they run here",
            [lease.id for lease in twins], served.name,
        )  # fmt: skip
        if foreign:
            self._runner.forget(served.lane, [(lease.id, lease.attempt) for lease in foreign], begun=True)
            self._release(served, [Release(lease.id, lease.attempt) for lease in foreign])

    def _judge(self, served: Served, unloaded: Sequence[Unloaded]) -> None:
        """These attempts have not begun: settle them, or give them back, by whose fault it is."""
        try:
            releases = self._load_failures.judge(served, unloaded)
        except CampaignNotFoundError:
            self._book.leave(served.name)
        except GiveUp:
            raise
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._complaints.add(f"campaign {served.name} cannot be judged for now, trying again", error)
            self._book.keep_unloaded(served, unloaded)
        else:
            if releases:
                self._give_back(served, releases)

    def _try_to_tell_load(self, served: Served) -> None:
        try:
            self._tell_load(served)
        except CampaignNotFoundError:
            self._book.leave(served.name)
        except GiveUp:
            raise
        except Exception as error:  # whoever cannot load it then fails jobs that others could run
            self._complaints.add(f"campaign {served.name} cannot be told that it was loaded", error)
            self._book.put_off(served, ())

    def _tell_load(self, served: Served) -> None:
        """What was loaded here of this campaign and it does not know yet."""
        revision, sources = self._book.untold_load(served)
        if revision is not None or sources:
            self._queue(served).note_load(revision, sources)
            self._book.told_load(served, revision, sources)

    def _release_due(self) -> None:
        due = self._book.take_releases()
        for number, (served, releases) in enumerate(due):
            try:
                self._release(served, releases)
            except GiveUp:  # it has put its own back; those behind it must not be forgotten either
                for other, rest in due[number + 1 :]:
                    self._book.release_later(other, rest)
                raise

    def _release(self, served: Served, releases: Sequence[Release]) -> None:
        if self._give_back(served, releases):
            _log_releases(served, releases)

    def _give_back(self, served: Served, releases: Sequence[Release]) -> bool:
        try:
            self._queue(served).release(self._options.name, releases)
        except CampaignNotFoundError:
            self._book.leave(served.name)
        except GiveUp:
            self._book.release_later(served, releases)
            raise
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._complaints.add(f"jobs of campaign {served.name} cannot be given back, trying again", error)
            self._book.release_later(served, releases)
        else:
            self._book.released(served)
            return True
        return False

    def _queue(self, served: Served) -> CampaignQueue:
        """The campaign over the exchange's own link, whose waiting is what spools."""
        if served.trading is None:
            served.trading = CampaignQueue(self._link, served.name, served.queue.uid)
        return served.trading

    def _sign_roster(self, served: Served) -> None:
        if not served.is_on_roster:
            who = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            key = served.queue.keys.column("roster")
            try:
                self._link.call(lambda client: client.hset(key, self._options.name, who))
            except (DamagedError, NodeAwayError) as error:  # it only tells on which host a job ran
                self._complaints.add(f"the roster of campaign {served.name} cannot be signed", error)
                if isinstance(error, NodeAwayError):
                    return
            served.is_on_roster = True


def _rest(
    held: Sequence[Token], ended: Container[Token], running: Container[Token], reason: str
) -> list[Release]:
    """What is held and has not ended is given back: for `reason` what was running, the rest for none."""
    return [Release(*token, reason if token in running else "") for token in held if token not in ended]


def _log_releases(served: Served, releases: Sequence[Release]) -> None:
    for release in releases:
        if release.reason:
            log.info(
                "job %d attempt %d of %s given back: %s", release.id, release.attempt, served.name,
                release.reason,
            )  # fmt: skip


def _attempt(lease: Lease) -> Attempt:
    return Attempt((lease.id, lease.attempt), lease.config, lease.slots)
