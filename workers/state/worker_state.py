"""`WorkerState`: all that the threads of a worker share, under one lock.

::

    runner ──ended, given up, loaded──┐                 ┌──▶ settler: the next call for each campaign
    listener ──a marker was taken─────┼──▶ WorkerState ─┼──▶ listener: the markers to block on
    keeper ──serve, refuse, leave─────┘                 └──▶ keeper: the tokens to extend

Nothing here talks to the server.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.attempt import Token
from queue_eval.model.codec import encode
from queue_eval.model.moves import Lease, PointBatch, Printed, Release, Settled, Settlement
from queue_eval.model.states import Outcome
from workers.executors.protocol import Ended, Plan
from workers.executors.signs import Sign
from workers.runner import Runner
from workers.signals import DOUBT_S, Signals
from workers.state.fair_share import Share, SlotUse, slot_use
from workers.state.held_jobs import DOUBTFUL, MAX_REASON_LENGTH
from workers.state.load_outcomes import LoadOutcomes
from workers.state.loads import Unloaded
from workers.state.pending_releases import PendingReleases
from workers.state.served_campaign import PUT_OFF_S, ServedCampaign
from workers.state.served_campaigns import ServedCampaigns

RESERVED_ASK_EVERY_S = 1.0
"""A worker that lets slots run free for a wide job asks this often whether it is still to do so."""

_FAILED = frozenset((Outcome.ERROR, Outcome.TIMEOUT, Outcome.LOST, Outcome.NAN, Outcome.INF))

WAITED_TOO_LONG_S = 1.0
"""A prefetched job that has not begun after so long is given back: other workers may be idle."""


@dataclass(frozen=True)
class SettleCall:
    """One call for one campaign: what it settles, and how many jobs it asks for."""

    served: ServedCampaign
    settlements: Sequence[Settlement]
    room: int
    prefetch: int
    slots: int
    """How many slots one job may take here, when nothing else runs."""
    left_s: float | None = None
    """How long a job may run here; None: as long as it likes."""


class WorkerState:
    """Guarantees: every method is atomic, and so is every public method of `campaigns`, `loads` and
    `releases`: all use the one lock of `changed`. It is notified whenever there may be something to do."""

    def __init__(
        self, signals: Signals | None = None, remove: Callable[[Path], object] = lambda _: None,
        drains_at: float | None = None,
    ) -> None:  # fmt: skip
        """`remove`: has a folder removed soon, in another thread. `drains_at`: when this worker begins to
        drain because its time ends (monotonic, s); None: never. What begins here has the time until then."""
        self._signals = signals or Signals()
        self._remove = remove
        self.drains_at = drains_at
        self._no_lease_before = 0.0
        """Nothing is leased before this moment (monotonic, s), for a stop signal may be on its way."""
        self.changed = threading.Condition()
        self.campaigns = ServedCampaigns(self.changed)
        self.releases = PendingReleases(self.changed)
        self.loads = LoadOutcomes(self.changed, self.campaigns)
        self._runner: Runner | None = None
        self._draining = False
        self._turn = 0
        self._idle_since = time.monotonic()
        self._took_back_at = time.monotonic()

        self.on_dropped: Callable[[str, list[Token]], object] | None = None
        """Called with attempts of a campaign that were ended because they are not wanted any more."""
        self.on_trouble: Callable[[], None] | None = None
        """Called when `campaigns.reasons` may have changed, so that drivers are told at once."""

    def attach_runner(self, runner: Runner) -> None:
        self._runner = self.campaigns.runner = runner

    # From the runner: see `workers.runner.Reports` ------------------------------------------------------

    def ended(self, lane_id: str, attempts: list[Ended], missing_slots: int) -> None:
        """These attempts have ended. `missing_slots` are taken by abandoned threads."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            for ended in attempts:
                self._note_ended(served, ended)
            served.missing_slots = missing_slots
            self._note_free_slot()
            self.changed.notify()

    def _note_ended(self, served: ServedCampaign, ended: Ended) -> None:
        job, attempt = ended.token
        if not ended.unloaded:
            served.pace.add(ended.slot_ms)
        request, digest = served.held.proofs.get(ended.token, ("", ""))
        outcome = ended.outcome
        if served.signs.are_there:  # few jobs tell anything
            was_shown_stop = self._end_signs(served, ended.token, failed=outcome in _FAILED)
            if was_shown_stop and outcome is Outcome.OK:
                outcome = Outcome.STOPPED
        settlement = Settlement(
            job, attempt, outcome, ended.run_ms, ended.ended_at, ended.source, ended.body, ended.output,
            request, digest,
        )  # fmt: skip
        if ended.source and ended.source not in served.loads.sources:
            served.loads.note_source(ended.source, encode(ended.source_parts or {}))
        if ended.unloaded:
            served.loads.unloaded.append(Unloaded(settlement, ended.unloaded))
        elif outcome is Outcome.GIVEN_BACK:
            self._give_back(served, ended.token, ended.body.decode(errors="replace"))
        else:
            is_doubtful = ended.outcome in DOUBTFUL and not ended.is_limit
            served.held.add_ended(settlement, is_doubtful=is_doubtful)
        if ended.outcome is Outcome.LOST and not ended.unloaded:
            # A signal may be on its way to this worker, too. Jobs leased now would die of it.
            self._no_lease_before = time.monotonic() + DOUBT_S
        served.held.let_go(ended.token)

    def loaded(self, lane_id: str, revision: int) -> None:
        """A process has loaded the run function of this revision."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is not None:
                served.loads.succeed(revision)
                self.changed.notify()

    def given_up(self, lane_id: str, tokens: list[Token], missing_slots: int, *, release: bool) -> None:
        """These attempts will not end. With `release` they go back to the queue, else they are not ours."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            for token in tokens:
                self._end_signs(served, token)
                served.held.let_go(token)
            served.missing_slots = missing_slots
            self._note_free_slot()
            if release:
                self.releases.add(served, [Release(*token) for token in tokens])
                # They waited behind a job that was not short: ask for no more than can begin at once.
                served.pace.add(WAITED_TOO_LONG_S * 1000)
            elif self.on_dropped is not None:
                self.on_dropped(served.name, tokens)
            for job, attempt in tokens:
                served.held.strike_off(job, attempt)
            self.changed.notify()

    def told(self, lane_id: str, signs: list[Sign]) -> None:
        """What running attempts have told of themselves."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            was_due_at = served.signs.due_at()
            for sign in signs:
                # An attempt that has ended tells nothing more: a process that it left may still try.
                if (proof := served.held.proofs.get(sign.token)) is not None:
                    served.signs.add(sign, proof[0])
            if was_due_at is None and served.signs.due_at() is not None:
                self.changed.notify()

    def printed(self, lane_id: str, printed: list[Printed]) -> None:
        """What running attempts have printed."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            was_due_at = served.live.due_at()
            for news in printed:
                # An attempt that has ended tells nothing more.
                if (news.id, news.attempt) in served.held.proofs:
                    served.live.add(news)
            if was_due_at is None and served.live.due_at() is not None:
                self.changed.notify()

    def given_back(self, lane_id: str, token: Token, reason: str, missing_slots: int) -> None:
        """This attempt has asked to be given back, and was ended."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            self._end_signs(served, token)
            served.held.let_go(token)
            served.missing_slots = missing_slots
            self._note_free_slot()
            self._give_back(served, token, reason)
            self.changed.notify()

    def _end_signs(self, served: ServedCampaign, token: Token, *, failed: bool = False) -> bool:
        """An attempt tells nothing more. Its folder goes. Returns whether it was shown that it is to stop."""
        ends = served.signs.ended(token)
        folders = served.folders if ends.has_folder or ends.is_over else None
        if folders is not None and ends.has_folder and not (failed and folders.keeps_failed):
            self._remove_if(folders.working_folder_of(token))
        if folders is not None and ends.is_over and not folders.keeps_checkpoints:
            self._remove_if(folders.checkpoints_of(token[0]))
        return ends.was_shown_stop

    def _remove_if(self, folder: Path | None) -> None:
        if folder is not None:
            self._remove(folder)

    def with_checkpoints(self, served: ServedCampaign, jobs: Sequence[int]) -> list[int]:
        """Those of these jobs that have checkpoints, as far as is known here."""
        with self.changed:
            return [job for job in jobs if job in served.signs.with_checkpoints]

    def note_over(self, served: ServedCampaign, job: int) -> None:
        """No attempt of this job will follow. Its checkpoints go when the one that runs here has ended."""
        with self.changed:
            served.signs.over.add(job)

    def note_succeeded(self, served: ServedCampaign, jobs: Sequence[int]) -> None:
        """The server has recorded their success."""
        with self.changed:
            folders = served.folders
            for job in jobs:
                if job in served.signs.with_checkpoints and not folders.keeps_checkpoints:
                    self._remove_if(folders.checkpoints_of(job))
                served.signs.with_checkpoints.discard(job)

    def _give_back(self, served: ServedCampaign, token: Token, reason: str) -> None:
        """Release an attempt that has asked for it. It runs elsewhere at once when this worker drains; else
        it waits, for whatever it lacks here it may lack everywhere."""
        text = f"given back by the job: {reason}" if reason else "given back by the job"
        lacks_time = self._draining and self.is_out_of_time
        release = Release(
            *token, text[:MAX_REASON_LENGTH], delayed=not self._draining, lacks_time=lacks_time
        )
        self.releases.add(served, [release])
        served.held.strike_off(*token)

    def troubled(self, lane_id: str, why: str) -> None:
        """Nothing of this lane runs, and why; "" when it runs again."""
        with self.changed:
            served = self.campaigns.of_lane(lane_id)
            if served is None:
                return
            served.trouble = why
        if self.on_trouble is not None:
            self.on_trouble()

    # From the listener and the keeper -------------------------------------------------------------------

    def wanted(self, campaign: str | None) -> None:
        """A marker of this campaign was taken. None: it is time to ask for all campaigns."""
        with self.changed:
            for served in self.campaigns:
                if campaign in (None, served.name):
                    served.may_have_work = True
                    served.took_marker = served.took_marker or campaign is not None
            self.changed.notify()

    def wake_keys(self) -> dict[str, str]:
        """The markers to block on: key -> campaign.

        Skip campaigns whose marker we cannot act on now: BZPOPMIN would return the same marker in a loop and
        starve the other campaigns. A campaign that we are about to ask for may be listened to: we then ask
        once more.
        """
        with self.changed:
            now = time.monotonic()
            use = self._slot_use(now)
            keys: dict[str, str] = {}
            for served in self.campaigns:
                if served.is_withdrawn or served.reserved_slots or served.is_prefetch_limited:
                    continue
                if served.may_have_work and (
                    served.is_put_off(now) or self._share(served, now, use).is_empty
                ):
                    continue
                keys[served.queue.keys.wake] = served.name
                listens = served.slots > 1 or served.may_have_shapes
                if listens and not served.has_other_wide_jobs:
                    keys[served.queue.keys.wake_wide] = served.name
            return keys

    def is_done_with(self, served: ServedCampaign) -> bool:
        """Whether nothing is left of a campaign that was withdrawn."""
        with self.changed:
            return served.is_withdrawn and not self._holds_any_of(served)

    def leave_idle(self, campaign: str) -> CampaignCommands | None:
        """Leave a campaign of which nothing is here. None when it is not served, or something is here."""
        with self.changed:
            served = self.campaigns.get(campaign)
            if served is None or served.unanswered or self._holds_any_of(served):
                return None
            self.campaigns.strike_out(served)
        if self._runner is not None:
            self._runner.drop(served.lane_id)
        return served.queue

    # From the worker ------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Ask for no more."""
        with self.changed:
            self._draining = True
            self.changed.notify()
        if self._runner is not None:
            self._runner.drain()

    @property
    def is_draining(self) -> bool:
        with self.changed:
            return self._draining

    @property
    def is_out_of_time(self) -> bool:
        """Whether this worker's time ends: what is given back now lacks it."""
        return self.drains_at is not None and time.monotonic() >= self.drains_at

    def is_drained(self) -> bool:
        """Whether it drains and has nothing to run, settle or release. Moves doubtful attempts on first."""
        with self.changed:
            self._move_doubtful()
            return self._draining and not self._is_busy() and not self.releases.has_any_reachable()

    def idle_s(self) -> float:
        """How long nothing has run here."""
        with self.changed:
            if self._is_busy():
                self._idle_since = time.monotonic()
            return time.monotonic() - self._idle_since

    def running(self) -> int:
        """How many attempts the runner has."""
        with self.changed:
            return sum(served.held.running for served in self.campaigns)

    def busy_slots(self) -> int:
        """How many slots are taken. A job that is forwarded, or waits in a child, takes none."""
        with self.changed:
            return sum(
                min(served.plan.slots, served.held.slots_in_hand + max(0, served.missing_slots))
                for served in self.campaigns
                if not served.is_forwarding
            )

    # From the settler: when to call ---------------------------------------------------------------------

    def decide_doubtful(self) -> None:
        """Leave no attempt in doubt: the worker ends."""
        with self.changed:
            self._move_doubtful(at_once=True)

    def unsettled(self) -> list[tuple[CampaignCommands, list[Settlement]]]:
        """What has ended and is not settled, by campaign. Moves doubtful attempts on first."""
        with self.changed:
            self._move_doubtful(at_once=self._draining)
            return [(served.queue, list(served.held.outbox)) for served in self.campaigns]

    def has_business(self) -> bool:
        """Whether the settler has something to do now. Moves doubtful attempts on first."""
        with self.changed:
            self._move_doubtful()
            return (
                self.loads.is_pending()
                or self.releases.is_due()
                or bool(self._with_due_signs(time.monotonic()))
                or bool(self._with_due_output(time.monotonic()))
                or self._holds_too_long()
                or bool(self._choose())
            )

    def sleep_s(self) -> float | None:
        """How long the settler may sleep (s) if nothing changes; None: for ever."""
        with self.changed:
            now = time.monotonic()
            due = [self._no_lease_before] if self._no_lease_before > now else []
            for served in self.campaigns:
                if served.due_at is not None:
                    due.append(served.due_at)
                if served.not_before is not None and served.is_put_off(now):
                    due.append(served.not_before)
                if served.held.doubtful:
                    due.append(served.held.doubtful[0].ended_at + DOUBT_S)
                if (resume_at := served.loads.pause_until(now)) is not None:
                    due.append(resume_at)
                due += [at for at in (served.signs.due_at(), served.live.due_at()) if at is not None]
            waits_s = [max(0.0, at - now) for at in due]
            if self._is_ahead():
                # Jobs that wait behind others may have to be taken back from the runner.
                waits_s.append(WAITED_TOO_LONG_S)
            return min(waits_s, default=None)

    def campaigns_with_signs(self) -> list[ServedCampaign]:
        """The campaigns of which the server is to be told what their jobs have told."""
        with self.changed:
            return self._with_due_signs(time.monotonic())

    def take_signs(self, served: ServedCampaign, server_ahead_ms: float) -> list[PointBatch]:
        """What one call may carry of it, also before it is due."""
        with self.changed:
            return served.signs.take(server_ahead_ms, served.held.proofs)

    def put_back_signs(self, served: ServedCampaign, batches: Sequence[PointBatch]) -> None:
        """The call that carried these failed: they wait a little."""
        with self.changed:
            served.signs.put_back(batches)
            served.signs.put_off(PUT_OFF_S)

    def mark_signs_taken(
        self, served: ServedCampaign, batches: Sequence[PointBatch], verdicts: Sequence[bool]
    ) -> None:
        """These were sent. `verdicts`: whether the server has taken each."""
        with self.changed:
            served.signs.mark_taken(batches, verdicts, served.held.proofs)

    def campaigns_with_output(self) -> list[ServedCampaign]:
        """The campaigns of which the server is to be told what their jobs print."""
        with self.changed:
            return self._with_due_output(time.monotonic())

    def take_output(self, served: ServedCampaign) -> list[Printed]:
        """What its running attempts have printed since the server was last told."""
        with self.changed:
            return served.live.take(served.held.proofs)

    def put_back_output(self, served: ServedCampaign, printed: Sequence[Printed]) -> None:
        """The call that carried this failed: it waits a little."""
        with self.changed:
            served.live.put_back(printed, served.held.proofs)
            served.live.put_off(PUT_OFF_S)

    def take_releases(self) -> list[tuple[ServedCampaign, list[Release]]]:
        """What is to be given back now. Jobs that have waited too long are asked back from the runner."""
        with self.changed:
            if self._holds_too_long() and self._runner is not None:
                self._took_back_at = time.monotonic()
                self._runner.take_back(WAITED_TOO_LONG_S)
            return self.releases.take_due()

    # From the settler: the calls ------------------------------------------------------------------------

    def take_turn(self) -> list[ServedCampaign]:
        """The campaigns to call for now. Each turn begins with another one, so that none starves."""
        with self.changed:
            chosen = self._choose()
            self._turn += 1
            shift = self._turn % len(chosen) if chosen else 0
            return chosen[shift:] + chosen[:shift]

    def prepare(self, served: ServedCampaign) -> SettleCall | None:
        """The next call for a campaign; what it settles leaves the outbox.

        None when the campaign was left since its turn was taken: a call would make this worker attend it
        again, and may lease jobs that nobody would run.
        """
        with self.changed:
            if self.campaigns.of_lane(served.lane_id) is not served:
                return None
            now = time.monotonic()
            share = self._share(served, now, self._slot_use(now))
            served.took_marker, served.is_in_call = False, True
            left_s = None if self.drains_at is None else self.drains_at - now
            return SettleCall(
                served, self.take_batch(served), share.slots, share.prefetch, max(0, served.slots), left_s
            )

    def take_batch(self, served: ServedCampaign) -> list[Settlement]:
        with self.changed:
            return served.held.take_batch()

    def call_ended(self, served: ServedCampaign) -> None:
        """The call is over, and what it brought is noted."""
        with self.changed:
            served.is_in_call = False

    def put_off(self, served: ServedCampaign, settlements: Sequence[Settlement]) -> None:
        """A call failed: what it was to settle goes back, and the campaign waits a little."""
        with self.changed:
            served.held.put_back(settlements)
            served.put_off()

    def settled(self, call: SettleCall) -> bool:
        """These settlements are on the server. Returns whether nothing is left to settle."""
        with self.changed:
            call.served.not_before = None
            call.served.held.acknowledge(call.settlements)
            return not any(served.held.outbox for served in self.campaigns)

    def leased(self, call: SettleCall, plan: Plan, reply: Settled) -> bool:
        """Take on these leases. Returns whether the server had nothing more for this worker's room."""
        with self.changed:
            served, now = call.served, time.monotonic()
            if plan.revision != served.plan.revision:
                served.loads.reset()
            served.plan = plan
            self.campaigns.call_succeeded(served)
            taken = served.held.take_on(reply.leases)
            if reply.has_extras:
                served.signs.with_checkpoints.update(lease.id for lease in reply.leases if lease.checkpoint)
            if reply.leases:
                served.loads.lease((lease.id, lease.attempt) for lease in reply.leases)
                self._idle_since = now
            asked = call.room + call.prefetch
            if asked > 0:
                served.may_have_work = taken >= asked
                served.reserved_slots = reply.reserved_slots
                served.has_other_wide_jobs = reply.has_other_wide_jobs
                served.is_prefetch_limited = reply.is_prefetch_limited
                served.may_have_shapes = served.may_have_shapes or reply.may_have_shapes
            if reply.next_due_ms is not None:
                served.due_at = now + max(0, reply.next_due_ms - reply.now_ms) / 1000
            if served.reserved_slots:
                served.due_at = min(served.due_at or math.inf, now + RESERVED_ASK_EVERY_S)
            return not served.may_have_work and not self._draining

    # When the server has gone back in time --------------------------------------------------------------

    def adopt_twins(self, served: ServedCampaign, leases: Sequence[Lease]) -> list[Lease]:
        """Have attempts that run here settled under a new lease of the same token and config.

        This replaces the proof and the token that are held for such an attempt. Returns all leases whose
        token runs here, of whatever config: the server has gone back in time, and has given these again.
        """
        with self.changed:
            return served.held.adopt_twins(leases)

    def is_leased(self, served: ServedCampaign, lease: Lease) -> bool:
        """Whether what runs here under the token of this lease was leased by it."""
        with self.changed:
            return served.held.is_leased_by(lease)

    def settle_again(self, served: ServedCampaign, unknown: Sequence[Token]) -> list[Token]:
        """Settle anew what was acknowledged and is held here again. Returns which of `unknown` that is."""
        with self.changed:
            again = served.held.settle_again(unknown)
            self.changed.notify()
            return again

    # ----------------------------------------------------------------------------------------------------

    def _holds_any_of(self, served: ServedCampaign) -> bool:
        held = served.held
        has_jobs = bool(held.slots_in_hand or held.tokens or served.has_ended_jobs)
        return has_jobs or served.is_in_call or self.releases.has_any_of(served)

    def _is_busy(self) -> bool:
        # A campaign whose calls fail holds nobody up: what it does not take goes to disk at the end.
        return any(
            served.held.slots_in_hand or (served.has_ended_jobs and served.not_before is None)
            for served in self.campaigns
        )

    def _move_doubtful(self, *, at_once: bool = False) -> None:
        """Move doubtful attempts on: to the releases if a stop signal explains them, to the outbox if none
        can explain them any more. With `at_once` none stays in doubt."""
        latest = math.inf if at_once else time.monotonic() - DOUBT_S
        for served in self.campaigns:
            if served.held.doubtful and (releases := served.held.decide_doubtful(self._signals, latest)):
                lacks_time = self.is_out_of_time
                self.releases.add(served, [r._replace(lacks_time=lacks_time) for r in releases])

    def _with_due_signs(self, now: float) -> list[ServedCampaign]:
        return [
            served
            for served in self.campaigns
            if (due_at := served.signs.due_at()) is not None and due_at <= now
        ]

    def _with_due_output(self, now: float) -> list[ServedCampaign]:
        return [
            served
            for served in self.campaigns
            if (due_at := served.live.due_at()) is not None and due_at <= now
        ]

    def _is_ahead(self) -> bool:
        return any(served.is_ahead for served in self.campaigns)

    def _holds_too_long(self) -> bool:
        return self._is_ahead() and time.monotonic() - self._took_back_at > WAITED_TOO_LONG_S

    def _note_free_slot(self) -> None:
        # It may be the last slot that a wide job of another campaign was waiting for.
        for served in self.campaigns:
            if served.reserved_slots or served.is_prefetch_limited:
                served.may_have_work, served.is_prefetch_limited = True, False

    def _choose(self) -> list[ServedCampaign]:
        """The campaigns that have something to settle or to ask for."""
        now = time.monotonic()
        reachable = [served for served in self.campaigns if not served.is_put_off(now)]
        for served in reachable:
            if served.due_at is not None and served.due_at <= now:
                served.may_have_work, served.due_at = True, None
        use = self._slot_use(now)
        # A full worker makes a call for a marker that it took, too: the server then puts it back for others.
        return [
            served
            for served in reachable
            if served.held.outbox
            or served.took_marker
            or (served.may_have_work and not self._share(served, now, use).is_empty)
        ]

    def _slot_use(self, now: float) -> SlotUse:
        """How much of this worker's own slots is in use."""
        return slot_use(
            (served.held.slots_in_hand, served.may_lease(now), served.reserved_slots)
            for served in self.campaigns
            if not served.is_forwarding
        )

    def _share(self, served: ServedCampaign, now: float, use: SlotUse) -> Share:
        may_ask = not self._draining and now >= self._no_lease_before
        return served.share(now, use, may_ask=may_ask)
