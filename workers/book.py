"""What this worker serves and holds: the one state that its threads share, under one lock.

The runner books what has ended, the listener and the keeper what they have heard, and the exchange takes
from it what to do next. Nothing here talks to the server.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from queue_eval.attempt import Token
from queue_eval.codec import encode
from queue_eval.moves import Lease, Release, Settled, Settlement
from queue_eval.queue import CampaignQueue
from queue_eval.states import Outcome
from workers.executors.protocol import Ended, Plan
from workers.loads import Unloaded
from workers.runner import Runner
from workers.served import Served
from workers.signals import DOUBT_S, Signals

_BATCH = 512
_BATCH_BYTES = 8 * 2**20

_PREFETCH_MS = 50.0
"""About so much work per slot is held in advance, while all jobs of late were short."""

_FORWARDED_MS = 200.0
"""The same of what is forwarded, whose results come in bunches."""

_PREFETCH_LONGEST_MS = 500.0
"""Half of what a job may wait for its slot here (`WAITED_TOO_LONG_S`)."""

_PREFETCH_MOST = 256

_PUT_OFF_S = 5.0

_DOUBTFUL = (Outcome.ERROR, Outcome.LOST)

_REASON_LENGTH = 400

_RESERVED_ASK_S = 1.0
"""A worker that lets slots run free for a wide job asks this often whether it is still to do so."""

WAITED_TOO_LONG_S = 1.0
"""What was prefetched and has not begun for so long is given back: others may be idle."""


@dataclass(frozen=True)
class Trade:
    """What to do for one campaign in one call: settle these, and ask for so many."""

    served: Served
    settlements: Sequence[Settlement]
    room: int
    prefetch: int
    slots: int
    """How many slots one job may take here, when nothing else runs."""


class Book:
    """Guarantees: every method is atomic. `changed` is notified whenever there may be something to do."""

    def __init__(self, signals: Signals | None = None) -> None:
        self._signals = signals or Signals()
        self._lease_at = 0.0
        """Nothing is leased before (monotonic, s)."""
        self.changed = threading.Condition()
        self._served: dict[str, Served] = {}
        self._lanes: dict[str, Served] = {}
        self._refused: dict[str, tuple[str, int]] = {}
        self._reasons: dict[str, str] = {}
        self._to_release: list[tuple[Served, list[Release]]] = []
        self._runner: Runner | None = None
        self._draining = False
        self._turn = 0
        self._idle_since = time.monotonic()
        self._took_back_at = time.monotonic()

        self.on_trouble: Callable[[], None] | None = None
        """Called when what `reasons` says has changed, so that drivers are told at once."""

    def attach_runner(self, runner: Runner) -> None:
        self._runner = runner

    # From the runner ------------------------------------------------------------------------------------

    def ended(self, key: str, attempts: list[Ended], missing_slots: int) -> None:
        """These attempts have ended; so many slots are taken by abandoned threads."""
        with self.changed:
            served = self._lanes.get(key)
            if served is None:
                return
            for one in attempts:
                job, attempt = one.token
                if not one.unloaded:
                    served.pace.add(one.slot_ms)
                request, digest = served.proofs.get(one.token, ("", ""))
                settlement = Settlement(
                    job, attempt, one.outcome, one.run_ms, one.ended_at, one.source, one.body, one.output,
                    request, digest,
                )  # fmt: skip
                if one.source and one.source not in served.loads.sources:
                    served.loads.note_source(one.source, encode(one.told or {}))
                if one.unloaded:
                    served.loads.unloaded.append(Unloaded(settlement, one.unloaded))
                elif one.outcome in _DOUBTFUL and not one.is_limit:
                    served.doubtful.append(settlement)
                else:
                    served.outbox.append(settlement)
                if one.outcome is Outcome.LOST and not one.unloaded:
                    # Of a signal that is on its way to this worker, too, whatever is leased now would die.
                    self._lease_at = time.monotonic() + DOUBT_S
                served.let_go(one.token)
            served.missing_slots = missing_slots
            self._a_slot_ran_free()
            self.changed.notify()

    def loaded(self, key: str, revision: int) -> None:
        """A process has loaded the run function of this revision."""
        with self.changed:
            served = self._lanes.get(key)
            if served is not None:
                served.loads.succeed(revision)
                self.changed.notify()

    def given_up(self, key: str, tokens: list[Token], missing_slots: int, *, release: bool) -> None:
        """These attempts will not end: they go back to the queue, or are somebody else's already."""
        with self.changed:
            served = self._lanes.get(key)
            if served is None:
                return
            for token in tokens:
                served.let_go(token)
            served.missing_slots = missing_slots
            self._a_slot_ran_free()
            if release:
                self._to_release.append((served, [Release(*token) for token in tokens]))
                # Something they waited behind was not short: ask for no more than can begin at once.
                served.pace.add(WAITED_TOO_LONG_S * 1000)
            for job, attempt in tokens:
                served.strike_off(job, attempt)
            self.changed.notify()

    def troubled(self, key: str, why: str) -> None:
        """Nothing of this lane runs, and why; "" when it does again."""
        with self.changed:
            served = self._lanes.get(key)
            if served is None:
                return
            served.trouble = why
        if self.on_trouble is not None:
            self.on_trouble()

    # From the listener and the keeper -------------------------------------------------------------------

    def wanted(self, campaign: str | None) -> None:
        """A marker of this campaign was taken; or (None) it is time to ask for all of them."""
        with self.changed:
            for served in self._served.values():
                if campaign in (None, served.name):
                    served.may_have_work = True
                    served.took_marker = served.took_marker or campaign is not None
            self.changed.notify()

    def wake_keys(self) -> dict[str, str]:
        """The markers to block on: key -> campaign."""
        with self.changed:
            keys: dict[str, str] = {}
            for name, served in self._served.items():
                # Who reserves, is held back, or has no room for what it knows of, would take that marker over
                # and over, and hear of nothing else. Who is about to ask may take it: it asks once more.
                if served.is_withdrawn or served.reserved or served.held_back:
                    continue
                if served.may_have_work and (_is_put_off(served) or sum(self._wishes(served)) == 0):
                    continue
                keys[served.queue.keys.wake] = name
                if served.slots > 1 and not served.aside:
                    keys[served.queue.keys.wake_wide] = name
            return keys

    def serve(self, queue: CampaignQueue, plan: Plan) -> None:
        """Serve this campaign too, or with another plan."""
        with self.changed:
            served = self._served.get(queue.campaign)
            if served is None or served.queue.uid != queue.uid:
                self.leave(queue.campaign)  # an earlier campaign of this name
                served = self._served[queue.campaign] = self._lanes[queue.uid] = Served(queue, plan)
            if plan.revision != served.plan.revision:
                served.loads.reset()
            served.plan = plan
            served.may_have_work, served.aside, served.is_withdrawn = True, False, False
            served.held_back = False
            self._refused.pop(queue.campaign, None)
            self._reasons.pop(queue.campaign, None)
            self.changed.notify()

    def leave(self, campaign: str) -> None:
        """The campaign is gone, or not for this worker: forget it, and stop its jobs."""
        with self.changed:
            left = self._served.get(campaign)
            if left is not None:
                self._strike_out(left)
        if left is not None and self._runner is not None:
            self._runner.drop(left.lane)

    def withdraw(self, campaign: str) -> None:
        """The campaign is not for this worker any more: lease no more of it, finish what runs."""
        with self.changed:
            served = self._served.get(campaign)
            if served is not None:
                served.is_withdrawn, served.reserved = True, 0
            self.changed.notify()

    def is_done_with(self, served: Served) -> bool:
        """Whether nothing is left of a campaign that was withdrawn."""
        with self.changed:
            return served.is_withdrawn and not self._is_busy_with(served)

    def leave_idle(self, campaign: str) -> CampaignQueue | None:
        """Leave a campaign of which nothing is here; None when it is not served, or something is."""
        with self.changed:
            served = self._served.get(campaign)
            if served is None or served.unanswered or self._is_busy_with(served):
                return None
            self._strike_out(served)
        if self._runner is not None:
            self._runner.drop(served.lane)
        return served.queue

    def _strike_out(self, served: Served) -> None:
        del self._served[served.name], self._lanes[served.lane]

    def _is_busy_with(self, served: Served) -> bool:
        releasing = any(other is served for other, _ in self._to_release)
        waiting = served.outbox or served.doubtful or served.loads.unloaded
        return bool(served.in_hand or waiting or served.tokens or served.is_trading or releasing)

    def refuse(self, campaign: str, uid: str, revision: int, why: str = "") -> None:
        """Remember that a campaign in this state is not to be served here; `why` is told to its drivers."""
        with self.changed:
            self._refused[campaign] = (uid, revision)
            self._reasons.pop(campaign, None)
            if why:
                self._reasons[campaign] = why

    def is_refused(self, campaign: str, uid: str, revision: int) -> bool:
        with self.changed:
            return self._refused.get(campaign) == (uid, revision)

    def forget_unlisted(self, listed: Iterable[str]) -> None:
        """Campaigns that are neither on the list nor served: a long-running worker meets ever new names."""
        with self.changed:
            kept = {*listed, *self._served}
            for place in (self._refused, self._reasons):
                for campaign in place.keys() - kept:
                    place.pop(campaign)

    def cannot_serve(self, campaign: str, why: str) -> None:
        """Tell its drivers that this campaign cannot be served for now."""
        with self.changed:
            self._reasons[campaign] = why

    def reasons(self) -> dict[str, str]:
        """Why campaigns that are for this worker are not served by it, or in vain: the newest last, of
        those that it refuses, and then those that it serves."""
        with self.changed:
            troubles = {served.name: served.trouble for served in self._served.values() if served.trouble}
            unloaded = {one.name: one.loads.reason for one in self._served.values() if one.loads.reason}
            refused = dict(self._reasons)
            for name, why in (troubles | unloaded).items():
                refused.setdefault(name, why)
            return refused

    def holdings(self) -> list[tuple[Served, list[Token]]]:
        """Every campaign served, with the tokens held."""
        with self.changed:
            return [(served, list(served.tokens.items())) for served in self._served.values()]

    # From the worker ------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Ask for no more."""
        with self.changed:
            self._draining = True
            self.changed.notify()
        if self._runner is not None:
            self._runner.take_back()

    @property
    def is_draining(self) -> bool:
        with self.changed:
            return self._draining

    def is_drained(self) -> bool:
        with self.changed:
            self._decide()
            releasing = any(served.not_before is None for served, _ in self._to_release)
            return self._draining and not self._is_busy() and not releasing

    def idle_s(self) -> float:
        """How long nothing has run here."""
        with self.changed:
            if self._is_busy():
                self._idle_since = time.monotonic()
            return time.monotonic() - self._idle_since

    def running(self) -> int:
        with self.changed:
            return sum(
                served.in_hand - sum(slots - 1 for slots in served.wide.values())
                for served in self._served.values()
            )

    def busy_slots(self) -> int:
        """How many slots are taken: what is forwarded, or waits in a child, takes none."""
        with self.changed:
            return sum(
                min(served.plan.slots, served.in_hand + max(0, served.missing_slots))
                for served in self._served.values()
                if not served.is_forwarding
            )

    # From the exchange ----------------------------------------------------------------------------------

    def decide(self) -> None:
        """Leave no attempt in doubt: the worker ends."""
        with self.changed:
            self._decide(at_once=True)

    def unsettled(self) -> list[tuple[CampaignQueue, list[Settlement]]]:
        with self.changed:
            self._decide(at_once=self._draining)
            return [(served.queue, list(served.outbox)) for served in self._served.values()]

    def has_business(self) -> bool:
        with self.changed:
            self._decide()
            releasing = any(not _is_put_off(served) for served, _ in self._to_release)
            loads = [one.loads for one in self._served.values() if not _is_put_off(one)]
            if any(one.unloaded or one.is_untold for one in loads):
                return True
            return releasing or self._holds_too_long() or bool(self._choose())

    def pause(self) -> float | None:
        """How long the exchange may sleep (s) if nothing changes; None for ever."""
        with self.changed:
            due = [served.due_at for served in self._served.values() if served.due_at is not None]
            due += [one.not_before for one in self._served.values() if one.not_before and _is_put_off(one)]
            due += [one.doubtful[0].ended_at + DOUBT_S for one in self._served.values() if one.doubtful]
            now = time.monotonic()
            due += [at for one in self._served.values() if (at := one.loads.pause_until(now)) is not None]
            if self._lease_at > now:
                due.append(self._lease_at)
            pauses = [max(0.0, at - now) for at in due]
            return min(pauses + [WAITED_TOO_LONG_S] * self._is_ahead(), default=None)

    def take_releases(self) -> list[tuple[Served, list[Release]]]:
        """What is to be given back now; what has waited too long is asked back from the runner."""
        with self.changed:
            if self._holds_too_long() and self._runner is not None:
                self._took_back_at = time.monotonic()
                self._runner.take_back(WAITED_TOO_LONG_S)
            releases = [one for one in self._to_release if not _is_put_off(one[0])]
            self._to_release = [one for one in self._to_release if _is_put_off(one[0])]
            return releases

    def unreleased(self) -> list[tuple[Served, list[Release]]]:
        """All that is still to be given back."""
        with self.changed:
            return list(self._to_release)

    def released(self, served: Served) -> None:
        with self.changed:
            served.not_before = None

    def release_later(self, served: Served, releases: Sequence[Release]) -> None:
        """They could not be given back; the campaign waits a little."""
        with self.changed:
            self._to_release.append((served, list(releases)))
            self.put_off(served, ())

    def take_unloaded(self) -> list[tuple[Served, list[Unloaded]]]:
        """Attempts whose processes never loaded the run function, to be judged."""
        with self.changed:
            found = [one for one in self._served.values() if one.loads.unloaded and not _is_put_off(one)]
            return [(one, one.loads.take_unloaded()) for one in found]

    def with_untold_loads(self) -> list[Served]:
        """Campaigns whose function was loaded here anew, as the server does not know yet."""
        with self.changed:
            return [one for one in self._served.values() if one.loads.is_untold and not _is_put_off(one)]

    def untold_load(self, served: Served) -> tuple[int | None, dict[str, str]]:
        """What the server is to be told of: the revision that was loaded, and the sources that are new."""
        with self.changed:
            return served.loads.revision, dict(served.loads.new_sources)

    def told_load(self, served: Served, revision: int | None, sources: Iterable[str]) -> None:
        """The server knows this now."""
        with self.changed:
            served.loads.know(revision, sources)

    def keep_unloaded(self, served: Served, unloaded: Sequence[Unloaded]) -> None:
        """They could not be judged; the campaign waits a little."""
        with self.changed:
            served.loads.unloaded[:0] = unloaded
            self.put_off(served, ())

    def blame_function(self, served: Served, unloaded: Sequence[Unloaded], reason: str) -> bool:
        """No worker can load the run function: its jobs end with that. `reason`: what its drivers and other
        workers are to be told, if anything. Whether it is blamed for the first time."""
        with self.changed:
            for one in unloaded:
                is_doubtful = one.settlement.outcome in _DOUBTFUL
                (served.doubtful if is_doubtful else served.outbox).append(one.settlement)
            return served.loads.blame_function(reason)

    def step_aside(self, served: Served, unloaded: Sequence[Unloaded], reason: str) -> float | None:
        """Others may load it: these attempts are held no more, and nothing is asked for a while (s), which is
        returned, or None when that was so before."""
        with self.changed:
            for one in unloaded:
                served.strike_off(one.settlement.id, one.settlement.attempt)
            # It knows of work that it does not want: their marker is for the others.
            served.may_have_work = True
            return served.loads.step_aside(time.monotonic(), reason)

    def take_turn(self) -> list[Served]:
        """The campaigns to trade with now, each time beginning with another, so that none starves."""
        with self.changed:
            chosen = self._choose()
            self._turn += 1
            shift = self._turn % len(chosen) if chosen else 0
            return chosen[shift:] + chosen[:shift]

    def prepare(self, served: Served) -> Trade | None:
        """The next trade with a campaign; what it is to settle leaves the outbox. None when it was left since
        its turn was taken: a call would make this worker attend it again, and may lease jobs for nobody."""
        with self.changed:
            if self._lanes.get(served.lane) is not served:
                return None
            room, prefetch = self._wishes(served)
            served.took_marker, served.is_trading = False, True
            slots = max(0, served.slots)
            return Trade(served, self.take_batch(served), room, prefetch, slots)

    def take_batch(self, served: Served) -> list[Settlement]:
        with self.changed:
            batch: list[Settlement] = []
            size = 0
            while served.outbox and len(batch) < _BATCH and size < _BATCH_BYTES:
                settlement = served.outbox.popleft()
                size += len(settlement.body) + len(settlement.output)
                batch.append(settlement)
            return batch

    def traded(self, served: Served) -> None:
        """The call is over, and what it brought is booked."""
        with self.changed:
            served.is_trading = False

    def put_off(self, served: Served, settlements: Sequence[Settlement]) -> None:
        """A call failed; what it was to settle goes back, and the campaign waits a little."""
        with self.changed:
            served.outbox.extendleft(reversed(settlements))
            served.not_before = time.monotonic() + _PUT_OFF_S

    def settled(self, trade: Trade) -> bool:
        """These settlements are on the server. Whether that was all there was."""
        with self.changed:
            trade.served.not_before = None
            for settlement in trade.settlements:
                trade.served.strike_off(settlement.id, settlement.attempt)
                trade.served.remember(settlement)
            return not any(served.outbox for served in self._served.values())

    def known(self, served: Served, leases: Sequence[Lease]) -> list[Lease]:
        """Those of which an equal token runs here: the server has gone back in time, and gives it again.

        If it is for the same config, what runs is what is leased: it is settled under the new lease.
        """
        with self.changed:
            twins = [lease for lease in leases if (lease.id, lease.attempt) in served.proofs]
            for lease in twins:
                token = lease.id, lease.attempt
                if served.proofs[token][1] == lease.digest:
                    served.proofs[token] = (lease.request, lease.digest)
                    served.tokens[lease.id] = lease.attempt
            return twins

    def is_leased(self, served: Served, lease: Lease) -> bool:
        """Whether what runs here under the token of this lease was leased by it."""
        with self.changed:
            return served.proofs.get((lease.id, lease.attempt), ("", ""))[0] == lease.request

    def settle_again(self, served: Served, unknown: Sequence[Token]) -> list[Token]:
        """Settle anew what was acknowledged and is held here again; returns which of `unknown` that is."""
        with self.changed:
            found = {(one.id, one.attempt): one for one in served.lately}
            again = [token for token in unknown if token in found]
            served.outbox.extend(found[token] for token in again)
            self.changed.notify()
            return again

    def leased(self, trade: Trade, plan: Plan, reply: Settled) -> bool:
        """These leases are taken on. Whether the server had nothing more for this worker's room."""
        with self.changed:
            served, now = trade.served, time.monotonic()
            if plan.revision != served.plan.revision:
                served.loads.reset()
            served.plan = plan
            if reply.leases:
                served.loads.lease((lease.id, lease.attempt) for lease in reply.leases)
            if not served.is_withdrawn:  # the call was under way when it was refused
                self._reasons.pop(served.name, None)
            taken = 0
            for lease in reply.leases:
                served.tokens[lease.id] = lease.attempt
                served.proofs[lease.id, lease.attempt] = (lease.request, lease.digest)
                taken += lease.slots
                if lease.slots > 1:
                    served.wide[lease.id, lease.attempt] = lease.slots
            served.in_hand += taken
            if reply.leases:
                self._idle_since = now
            asked = trade.room + trade.prefetch
            if asked > 0:
                served.may_have_work = taken >= asked
                served.reserved, served.aside = reply.reserved, reply.aside
                served.held_back = reply.held_back
            if reply.next_due_ms is not None:
                served.due_at = now + max(0, reply.next_due_ms - reply.now_ms) / 1000
            if served.reserved:
                served.due_at = min(served.due_at or math.inf, now + _RESERVED_ASK_S)
            return not served.may_have_work and not self._draining

    # ----------------------------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        # What a campaign does not take holds nobody up: it goes to disk at the end.
        return any(
            served.in_hand
            or ((served.outbox or served.doubtful or served.loads.unloaded) and served.not_before is None)
            for served in self._served.values()
        )

    def _decide(self, *, at_once: bool = False) -> None:
        """What is to become of errors and deaths: they are given back if a stop signal explains them, or else
        settled when it is too late for one."""
        latest = math.inf if at_once else time.monotonic() - DOUBT_S
        for served in self._served.values():
            releases: list[Release] = []
            while served.doubtful:
                settlement = served.doubtful[0]
                if self._signals.explain(settlement.ended_at):
                    end = settlement.body.decode(errors="replace").strip().rpartition("\n")[2]
                    reason = f"drain: {self._signals.reason}; it ended with: {end}"
                    releases.append(Release(settlement.id, settlement.attempt, reason[:_REASON_LENGTH]))
                    served.strike_off(settlement.id, settlement.attempt)
                elif settlement.ended_at <= latest:
                    served.outbox.append(settlement)
                else:
                    break
                served.doubtful.popleft()
            if releases:
                self._to_release.append((served, releases))

    def _is_ahead(self) -> bool:
        return any(served.in_hand > served.slots for served in self._served.values())

    def _holds_too_long(self) -> bool:
        return self._is_ahead() and time.monotonic() - self._took_back_at > WAITED_TOO_LONG_S

    def _a_slot_ran_free(self) -> None:
        # Perhaps in another campaign: it may be the last that was missing for a wide job.
        for served in self._served.values():
            if served.reserved or served.held_back:
                served.may_have_work, served.held_back = True, False

    def _choose(self) -> list[Served]:
        now = time.monotonic()
        chosen = []
        for served in self._served.values():
            if _is_put_off(served):
                continue
            if served.due_at is not None and served.due_at <= now:
                served.may_have_work, served.due_at = True, None
            wants = served.may_have_work and sum(self._wishes(served)) > 0
            # A full worker trades for a marker it took, too: the server then puts it back for the others.
            if served.outbox or wants or served.took_marker:
                chosen.append(served)
        return chosen

    def _wishes(self, served: Served) -> tuple[int, int]:
        """How many jobs to ask for: to begin at once, and to hold behind short ones."""
        if self._draining or served.is_withdrawn or time.monotonic() < self._lease_at:
            return 0, 0
        now = time.monotonic()
        if (most := served.loads.most(served.proofs, now)) == 0:
            return 0, 0
        slots = served.slots
        # What is forwarded runs elsewhere and takes nobody's slots here.
        sharing = (
            [served]
            if served.is_forwarding
            else [other for other in self._served.values() if not other.is_forwarding]
        )
        in_hand = sum(other.in_hand for other in sharing)
        rivals = sum(1 for other in sharing if other.in_hand or other.may_lease(now))
        # Slots are shared fairly between campaigns that have work, and whole when there is only one.
        share = -(-slots // rivals) if rivals > 1 else slots
        room = max(0, min(slots - in_hand, share - served.in_hand))
        if served.reserved:
            # A wide job may take more than its campaign's share: else it would never begin.
            return max(room, min(slots - in_hand, served.reserved), 0), 0
        if most is not None:
            room = min(room, most)
        reserved = max((other.reserved for other in sharing), default=0)
        if reserved:
            return max(0, min(room, slots - in_hand - reserved)), 0
        if rivals > 1 or served.wide or most is not None:
            return room, 0
        work_ms = _FORWARDED_MS if served.is_forwarding else _PREFETCH_MS
        per_slot = served.pace.fitting(work_ms, longest_ms=_PREFETCH_LONGEST_MS, most=_PREFETCH_MOST)
        ahead = min(per_slot * slots, 2 * _PREFETCH_MOST)
        return room, max(0, ahead - max(0, served.in_hand - slots))


def _is_put_off(served: Served) -> bool:
    return served.not_before is not None and served.not_before > time.monotonic()
