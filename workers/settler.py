"""The one thread that settles and leases: one call to the server does both.

::

    runner ──ended──▶ state ──┐                         ┌──▶ runner.submit
                              ├──▶ settle (one call) ──▶│
    listener ─"work"▶ state ──┘                         └──▶ lets the listener block when nothing was left

Attempts that end during a call are settled by the next one: batches grow under load and vanish when idle.
While the server is away the call waits, and what it carries is spooled.
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
from queue_eval.campaign.commands import CampaignCommands
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
from queue_eval.model.states import Outcome, Verdict
from queue_eval.runtime.notices import STOP
from queue_eval.transport.link import Link
from workers.attempt_log import about
from workers.executors.protocol import Plan
from workers.load_failures import LoadFailures
from workers.options import WorkerOptions
from workers.plan import label_of, make_plan
from workers.repeated_log import RepeatedLog
from workers.runner import Runner
from workers.spool import Spool
from workers.state.loads import Unloaded
from workers.state.served_campaign import ServedCampaign
from workers.state.worker_state import SettleCall, WorkerState

log = plain(logging.getLogger(__name__))


class Settler:
    """Settles and leases for all campaigns that this worker serves.

    Guarantees: once `run` and `finish` have returned, every lease taken is settled, released, or known to
    belong to another worker. Of a damaged campaign, settlements that the server refuses are in the spool, and
    leases that it does not take back expire. Assumes: `Link.call` may wait for ever, while the other threads
    go on.
    """

    def __init__(
        self, link: Link, options: WorkerOptions, state: WorkerState, runner: Runner, spool: Spool | None,
        load_failures: LoadFailures,
    ) -> None:  # fmt: skip
        self._link = link
        self._options = options
        self._lease_ms = round(options.lease_s * 1000)
        self._state = state
        self._runner = runner
        self._spool = spool
        self._load_failures = load_failures
        self._in_flight: tuple[CampaignCommands, Sequence[Settlement]] | None = None
        # A request is "<life>-<number>". Its number grows with each new call of one life of a worker, so that
        # the server can tell when a call was overtaken. It is unique over all lives of a worker's name.
        self._life = secrets.token_hex(4)
        self._number = 0
        self._server_ahead_ms = (time.time() - time.monotonic()) * 1000
        """How far the server's clock is ahead of the monotonic one here; at first a guess."""
        self._repeated_log = RepeatedLog(log)
        self._stopped = False
        self.may_listen = threading.Event()
        """Set while this worker has room and some campaign has no more jobs for it. The listener may then
        block on the markers."""
        self.on_settled: Callable[[str, Sequence[Settlement], Sequence[Verdict]], object] | None = None
        """Called with the server's verdicts on what attempts of a campaign have come to."""
        self.on_nothing_left: Callable[[Link], None] | None = None
        """Called when that begins: the listener may block already, without the campaign's marker."""

    def stop(self) -> None:
        """Make `run` return at its next turn."""
        with self._state.changed:
            self._stopped = True
            self._state.changed.notify()

    def spool(self) -> None:
        """Write everything that has ended to disk: the server is away. Called in the settler's thread."""
        if self._spool is None:
            return
        for queue, settlements in self._unacknowledged():
            self._spool.keep(queue, settlements)

    def run(self) -> None:
        """Make calls until drained or stopped."""
        state = self._state
        while True:
            with state.changed:
                while not (self._stopped or state.is_drained() or state.has_business()):
                    state.changed.wait(state.sleep_s())
                if self._stopped or state.is_drained():
                    return
            for served, unloaded in state.loads.take_unloaded():
                self._judge(served, unloaded)
            for served in state.loads.campaigns_to_tell():
                self._try_to_tell_load(served)
            for served in state.campaigns_with_signs():
                self._try_to_tell_signs(served)
            for served in state.campaigns_with_output():
                self._try_to_tell_output(served)
            self._release_due()
            for served in state.take_turn():
                if (call := state.prepare(served)) is not None:
                    self._make_call(call)

    def finish(self, running: dict[str, list[Token]], reason: str) -> None:
        """Settle what has ended, release all other leases, and leave the campaigns.

        `running`: the attempts, by lane, that ran when the runner closed. They are given back for `reason`.
        Leases that came too late to reach the runner are held, too.
        """
        self._state.decide_doubtful()
        self._release_due()
        has_unsettled = {queue.uid for queue, batch in self._state.unsettled() if batch}
        idle: list[CampaignCommands] = []
        are_complete: list[bool] = []
        for served, held in self._state.campaigns.holdings():
            if held or served.unanswered or served.queue.uid in has_unsettled:
                are_complete.append(self._finish(served, held, running.get(served.lane_id, []), reason))
            else:
                idle.append(served.queue)
        self._leave(idle)
        if self._spool is None:
            return
        if all(are_complete) and not self._state.releases.all():
            self._spool.clear()
            return
        self.spool()
        for served, releases in self._state.releases.all():
            self._spool.keep(served.queue, releases)

    def finish_into_spool(self, running: dict[str, list[Token]], reason: str) -> int:
        """Write to disk what `finish` would have told the server, which is away.

        Returns how many leases are given back this way. Otherwise their jobs would be charged when the leases
        expire.

        Assumes: the settler's thread has ended.
        """
        if self._spool is None:
            return 0
        self._state.decide_doubtful()
        self.spool()
        ended: dict[str, set[Token]] = {}
        for queue, batch in self._unacknowledged():
            tokens = ended.setdefault(queue.uid, set())
            tokens.update((settlement.id, settlement.attempt) for settlement in batch)
        given_back: list[tuple[ServedCampaign, list[Release]]] = []
        for served, held in self._state.campaigns.holdings():
            settled, ran = ended.get(served.queue.uid, ()), running.get(served.lane_id, ())
            given_back.append((served, self._unfinished(held, settled, ran, reason)))
        given_back += self._state.releases.all()
        for served, releases in given_back:
            self._spool.keep(served.queue, releases)
        return sum(len(releases) for _, releases in given_back)

    # ----------------------------------------------------------------------------------------------------

    def _unacknowledged(self) -> list[tuple[CampaignCommands, Sequence[Settlement]]]:
        """Attempts that have ended and are not acknowledged, with those of the call under way."""
        batches: list[tuple[CampaignCommands, Sequence[Settlement]]] = [*self._state.unsettled()]
        if self._in_flight is not None:
            batches.append(self._in_flight)
        return batches

    def _finish(
        self, served: ServedCampaign, held: Sequence[Token], running: Sequence[Token], reason: str
    ) -> bool:
        """Settle and release all of a campaign. Returns whether the server has taken everything."""
        settled: set[Token] = set()
        batch: Sequence[Settlement] = ()
        try:
            while batch := self._state.take_batch(served):
                self._settle(served, batch, lease_ms=0)
                settled.update((settlement.id, settlement.attempt) for settlement in batch)
            held = [*held, *self._unknown_leases(served)]
            releases = self._unfinished(held, settled, running, reason)
            self._tell_signs(served)
            self._queue(served).release(self._options.name, releases, leave=True)
            _log_releases(served, releases)
        except CampaignNotFoundError:
            return True
        except GiveUp:
            raise
        except Exception as error:
            self._repeated_log.add(f"campaign {served.name} cannot be left in order", error)
            self._state.put_off(served, batch)
            if isinstance(error, NodeAwayError):
                self._keep(served, [*batch, *self._releases_of(served, held, settled, running, reason)])
            return False
        return True

    def _unknown_leases(self, served: ServedCampaign) -> list[Token]:
        """The leases of a call whose reply never came: they are given back, too."""
        if not served.unanswered:
            return []
        reply = self._settle(served, (), lease_ms=self._lease_ms)
        return [(lease.id, lease.attempt) for lease in reply.leases]

    def _releases_of(
        self, served: ServedCampaign, held: Sequence[Token], settled: Container[Token],
        running: Sequence[Token], reason: str,
    ) -> list[Release]:  # fmt: skip
        """What is to be released of a campaign, without what has ended meanwhile."""
        ended = {
            (settlement.id, settlement.attempt)
            for queue, batch in self._state.unsettled()
            for settlement in batch
            if queue.uid == served.queue.uid
        }
        releases = self._unfinished(held, settled, running, reason)
        return [release for release in releases if (release.id, release.attempt) not in ended]

    def _unfinished(
        self, held: Sequence[Token], ended: Container[Token], running: Container[Token], reason: str
    ) -> list[Release]:
        """Releases of what is held and has not ended. Only attempts that were running get the `reason`."""
        lacks_time = self._state.is_out_of_time
        return [
            Release(*token, reason, lacks_time=lacks_time) if token in running else Release(*token)
            for token in held if token not in ended
        ]  # fmt: skip

    def _keep(self, served: ServedCampaign, leases: Sequence[Settlement | Release]) -> None:
        """Write to disk what became of these leases: the node of this campaign is away."""
        if self._spool is not None:
            self._spool.keep(served.queue, leases)

    def _leave(self, idle: Sequence[CampaignCommands]) -> None:
        """Leave campaigns that have nothing here, in one call: there may be many."""
        try:
            CampaignCommands.leave_all(self._link, self._options.name, idle)
        except GiveUp:
            raise
        except Exception as error:  # this worker's attendance ends with its lease anyway
            self._repeated_log.add(f"{len(idle)} idle campaigns cannot be left in order", error)

    def _make_call(self, call: SettleCall) -> None:
        served = call.served
        try:
            reply = self._settle(
                served, call.settlements, lease_ms=self._lease_ms, room=call.room, prefetch=call.prefetch,
                slots=call.slots, left_s=call.left_s,
            )  # fmt: skip
            self._note(call, reply)
            self._take_on(call, reply)
        except GiveUp:
            raise
        except CampaignNotFoundError:
            log.warning("campaign %s is gone: its jobs here are stopped", served.name)
            self._state.campaigns.leave(served.name)
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._repeated_log.add(f"campaign {served.name} cannot be served for now, trying again", error)
            if isinstance(error, NodeAwayError):
                self._keep(served, call.settlements)
            else:
                self._state.campaigns.cannot_serve(served.name, str(error))
            self._state.put_off(served, call.settlements)
        finally:
            self._state.call_ended(served)

    def _settle(
        self, served: ServedCampaign, settlements: Sequence[Settlement], *,
        lease_ms: int, room: int = 0, prefetch: int = 0, slots: int = 0, left_s: float | None = None,
    ) -> Settled:  # fmt: skip
        queue = self._queue(served)
        self._in_flight = (queue, settlements)
        # A call whose reply never came may have leased jobs that nobody here knows of. The same request, sent
        # again, gets these leases, or new ones if the call has not run (docs/protocol.md, "Requests").
        request = served.unanswered or self._new_request()
        try:
            # What an attempt has told is taken only while its lease is held.
            self._tell_signs(served)
            if settlements:
                # Their code must be known before the results: a driver looks it up once, as it gathers them.
                self._tell_load(served)
            reply = queue.settle(
                self._options.name, settlements, lease_ms=lease_ms, request=request, room=room,
                prefetch=prefetch, slots=slots, now=time.monotonic(), left_s=left_s,
                place=served.checkpoint_place() if lease_ms else "",
            )  # fmt: skip
        except CampaignNotFoundError:
            self._in_flight = None  # nothing is spooled of a campaign that is gone
            raise
        except NodeAwayError:
            if lease_ms:
                served.unanswered = request
            raise
        self._in_flight = None
        if settlements and self.on_settled is not None:
            self.on_settled(served.name, settlements, reply.verdicts)
        self._server_ahead_ms = reply.now_ms - time.monotonic() * 1000
        if lease_ms:
            served.unanswered = ""
        if self._spool is not None:
            self._spool.set_server_time(reply.now_ms)
        if served.signs.with_checkpoints:
            self._drop_checkpoints(served, settlements, reply.verdicts)
        return reply

    def _drop_checkpoints(
        self, served: ServedCampaign, settlements: Sequence[Settlement], verdicts: Sequence[Verdict]
    ) -> None:
        """Have the checkpoints removed of jobs that these settlements have ended well."""
        answers = list(zip(settlements, verdicts, strict=True))
        over = [s.id for s, verdict in answers if s.outcome in _SUCCESS and verdict is Verdict.RECORDED]
        # Perhaps by this very settlement, whose first reply was lost; perhaps the job has failed before.
        finished = [s.id for s, verdict in answers if verdict is Verdict.FINISHED]
        with_some = self._state.with_checkpoints(served, finished)
        over += [job for job in with_some if not self._queue(served).may_retry(job)]
        self._state.note_succeeded(served, over)

    def _new_request(self) -> str:
        # The number tells the server when a job was leased, should it be cancelled.
        self._number = max(self._number + 1, int(time.monotonic() * 1000 + self._server_ahead_ms))
        return f"{self._life}-{self._number}"

    def _note(self, call: SettleCall, reply: Settled) -> None:
        if self._state.settled(call) and self._spool is not None:
            self._spool.clear()
        if not log.isEnabledFor(logging.DEBUG):
            return
        for settlement, verdict in zip(call.settlements, reply.verdicts, strict=True):
            log.debug(
                "job %d attempt %d of %s: %s, %s",
                settlement.id, settlement.attempt, call.served.name, settlement.outcome, verdict,
            )  # fmt: skip

    def _take_on(self, call: SettleCall, reply: Settled) -> None:
        served, leases = call.served, reply.leases
        plan: Plan | None = served.plan
        if leases and reply.revision != served.plan.revision:
            plan = None
            try:
                plan = self._new_plan(served, reply.revision)
            finally:
                if plan is None:  # these leases have not begun, and will not begin here
                    self._release(served, [Release(lease.id, lease.attempt) for lease in leases])
        if plan is None:
            return
        if twins := self._state.adopt_twins(served, leases):
            self._drop_foreign(served, twins)
            leases = [lease for lease in leases if lease not in twins]
            reply = replace(reply, leases=leases)
        if leases and self._state.is_draining:
            # The drain began while the call was under way. Maybe a driver has asked for it, and has added
            # these jobs since, for workers with its own environment.
            self._release(served, [Release(lease.id, lease.attempt) for lease in leases])
            return
        nothing_left = self._state.leased(call, plan, reply)
        if reply.has_extras:
            stopped = [(lease.id, lease.attempt) for lease in leases if lease.stop]
            self._runner.notify(served.lane_id, stopped, STOP)
            self._log_distant_checkpoints(served, leases)
        if leases:
            # Nothing may fail before this: a lease that the runner never gets would hold its slots for ever.
            self._runner.submit(served.lane_id, plan, [_attempt(lease) for lease in leases])
            failpoints.reach("worker.after-lease")
            self._sign_roster(served)
        elif reply.has_other_wide_jobs and served.is_forwarding:
            # The jobs are too wide for the slots known here, but the backend may have more: ask it.
            self._runner.submit(served.lane_id, plan, [])
        if nothing_left:
            self.may_listen.set()
            if self.on_nothing_left is not None:
                self.on_nothing_left(self._link)

    def _new_plan(self, served: ServedCampaign, revision: int) -> Plan | None:
        """The plan of a campaign that was opened anew. None when it is not to be served here any more."""
        try:
            queue = self._queue(served)
            meta = queue.meta()
            if self._options.serves(served.name, label_of(meta)):
                return make_plan(queue, meta, self._options, self._link.access)
            # The campaign got another label before this worker has looked.
        except (FunctionError, MethodUnavailableError, ServerRefusedError) as error:
            log.error("campaign %s is not served: %s", served.name, error)
            self._state.campaigns.refuse(served.name, served.queue.uid, revision, str(error))
        # The jobs that run belong to an opening that was accepted: they are finished.
        self._state.campaigns.withdraw(served.name)
        return None

    def _drop_foreign(self, served: ServedCampaign, twins: Sequence[Lease]) -> None:
        """Stop attempts whose token was leased again for another config: nobody wants their results."""
        foreign = [lease for lease in twins if not self._state.is_leased(served, lease)]
        log.warning(
            "the server has gone back in time: jobs %s of %s are leased again while they run here",
            [lease.id for lease in twins], served.name,
        )  # fmt: skip
        if foreign:
            self._runner.forget(served.lane_id, [(lease.id, lease.attempt) for lease in foreign], begun=True)
            self._release(served, [Release(lease.id, lease.attempt) for lease in foreign])

    def _judge(self, served: ServedCampaign, unloaded: Sequence[Unloaded]) -> None:
        """Settle attempts that have not begun, or give them back, by whose fault it is."""
        try:
            releases = self._load_failures.judge(served, unloaded)
        except CampaignNotFoundError:
            self._state.campaigns.leave(served.name)
        except GiveUp:
            raise
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._repeated_log.add(f"campaign {served.name} cannot be judged for now, trying again", error)
            self._state.loads.keep_unloaded(served, unloaded)
        else:
            if releases:
                self._give_back(served, releases)

    def _try_to_tell_load(self, served: ServedCampaign) -> None:
        try:
            self._tell_load(served)
        except CampaignNotFoundError:
            self._state.campaigns.leave(served.name)
        except GiveUp:
            raise
        except Exception as error:  # workers that cannot load it would fail jobs that others could run
            self._repeated_log.add(f"campaign {served.name} cannot be told that it was loaded", error)
            self._state.put_off(served, ())

    def _tell_load(self, served: ServedCampaign) -> None:
        """Tell the server what was loaded here of this campaign, as far as it does not know."""
        revision, sources = self._state.loads.untold(served)
        if revision is not None or sources:
            self._queue(served).note_load(revision, sources)
            self._state.loads.mark_told(served, revision, sources)

    def _try_to_tell_signs(self, served: ServedCampaign) -> None:
        try:
            self._tell_signs(served)
        except CampaignNotFoundError:
            self._state.campaigns.leave(served.name)

    def _tell_signs(self, served: ServedCampaign) -> None:
        """Tell the server what running attempts of this campaign have told. A call that fails is made again:
        it must not keep others from settling.

        Raises CampaignNotFoundError and GiveUp.
        """
        while batches := self._state.take_signs(served, self._server_ahead_ms):
            try:
                verdicts = self._queue(served).report(self._options.name, batches)
            except CampaignNotFoundError:
                raise
            except GiveUp:
                self._state.put_back_signs(served, batches)
                raise
            except Exception as error:
                self._state.put_back_signs(served, batches)
                self._repeated_log.add(f"reports of {served.name} cannot be sent, trying again", error)
                return
            self._state.mark_signs_taken(served, batches, verdicts)
            for batch in batches:
                # Its folder may be seen from elsewhere only, such as from nodes of Ray.
                if batch.checkpoint and served.is_forwarding:
                    served.place = (served.plan, batch.checkpoint.partition(" ")[2])

    def _try_to_tell_output(self, served: ServedCampaign) -> None:
        """Tell the server what running attempts of this campaign print. What is not told now goes with the
        next call, or with the outcome."""
        printed = self._state.take_output(served)
        if not printed:
            return
        try:
            self._queue(served).tell(self._options.name, printed)
        except CampaignNotFoundError:
            self._state.campaigns.leave(served.name)
        except GiveUp:
            raise
        except Exception as error:
            self._state.put_back_output(served, printed)
            self._repeated_log.add(f"output of {served.name} cannot be sent, trying again", error)

    def _release_due(self) -> None:
        due = self._state.take_releases()
        for number, (served, releases) in enumerate(due):
            try:
                self._release(served, releases)
            except GiveUp:  # `_release` has put its own back; those behind them must not be forgotten either
                for later_served, later_releases in due[number + 1 :]:
                    self._state.releases.add_failed(later_served, later_releases)
                raise

    def _release(self, served: ServedCampaign, releases: Sequence[Release]) -> None:
        if self._give_back(served, releases):
            _log_releases(served, releases)

    def _give_back(self, served: ServedCampaign, releases: Sequence[Release]) -> bool:
        try:
            self._tell_signs(served)
            self._queue(served).release(self._options.name, releases)
        except CampaignNotFoundError:
            self._state.campaigns.leave(served.name)
        except GiveUp:
            self._state.releases.add_failed(served, releases)
            raise
        except Exception as error:  # whatever is wrong with one campaign must not stop the others
            self._repeated_log.add(
                f"jobs of campaign {served.name} cannot be given back, trying again", error
            )
            self._state.releases.add_failed(served, releases)
        else:
            self._state.releases.mark_released(served)
            return True
        return False

    def _queue(self, served: ServedCampaign) -> CampaignCommands:
        """The campaign over the settler's own link: while that link waits, it spools."""
        if served.settler_queue is None:
            served.settler_queue = CampaignCommands(self._link, served.name, served.queue.uid)
        return served.settler_queue

    def _log_distant_checkpoints(self, served: ServedCampaign, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if lease.checkpoint and not served.folders.has_checkpoint(lease.id):
                log.warning(
                    "job %d of %s has a checkpoint in a folder that this worker does not see, and begins "
                    "anew; name a folder that all workers share (checkpoints=)", lease.id, served.name,
                )  # fmt: skip

    def _sign_roster(self, served: ServedCampaign) -> None:
        if not served.is_on_roster:
            host = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
            key = served.queue.keys.column("roster")
            try:
                self._link.call(lambda client: client.hset(key, self._options.name, host))
            except (DamagedError, NodeAwayError) as error:  # the roster only tells on which host a job ran
                self._repeated_log.add(f"the roster of campaign {served.name} cannot be signed", error)
                if isinstance(error, NodeAwayError):
                    return
            served.is_on_roster = True


_SUCCESS = (Outcome.OK, Outcome.STOPPED)


def _log_releases(served: ServedCampaign, releases: Sequence[Release]) -> None:
    for release in releases:
        if release.reason:
            log.info(
                "job %d of %s (attempt %d) is given back: %s", release.id, served.name, release.attempt,
                release.reason,
                extra=about(
                    "given back", served.name, (release.id, release.attempt), error=release.reason
                ),
            )  # fmt: skip


def _attempt(lease: Lease) -> Attempt:
    return Attempt((lease.id, lease.attempt), lease.config, lease.slots)
