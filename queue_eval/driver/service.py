"""Which workers serve a campaign, as its waiting driver sees it, and what keeps its jobs waiting.

::

    jobs given back often   ──▶ look ──▶ one never gets anywhere                warned of at once
    counts of the campaign ─┐
    cards of live workers  ─┴▶ look ──▶ a worker refuses, or has stepped aside   warned of at once
                                   ├──▶ nobody serves it                         after a while of waiting
                                   ├──▶ all that serve it are full of others'    the same
                                   └──▶ a job is wider than all that serve it    the same

Each look costs the same, however long the driver waits: three reads, and the card of every live worker.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import LiveWorker, WorkerCard, live_workers
from queue_eval.errors import DamagedError, NodeAwayError
from queue_eval.marks import INSIDE_JOB
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.hints import spell_command, spell_worker
from queue_eval.user_warning import warn_user

LEASE_S = 30.0
"""The lease of a worker whose card does not say it."""

MOST_WARNINGS = 5
"""So many warnings of workers that refuse. One more counts the workers that come after them."""

OFTEN_GIVEN_BACK = 10
"""A job that was given back so often in a row, without a new checkpoint, never gets anywhere."""

MOST_TOLD_GIVEN_BACK = 5
"""So many jobs of those are warned of one by one."""


@dataclass
class _Trouble:
    """A condition of which the user is warned once, after every look has seen it for a while of waiting."""

    since_s: float | None = None
    is_warned: bool = False

    def is_due(self, is_present: bool, waited_s: float, patience_s: float) -> bool:
        """Whether to warn now. `waited_s`: the time spent waiting so far."""
        if not is_present:
            self.since_s = None
        elif self.since_s is None:
            self.since_s = waited_s
        elif not self.is_warned and waited_s - self.since_s >= patience_s:
            self.is_warned = True
            return True
        return False


class ServiceCheck:
    """Warns the user of what keeps a campaign's jobs waiting.

    Assumes: one thread at a time. Durations are counted in time spent waiting, which the caller gives: a
    driver that computed meanwhile has not seen whether anybody served. `forwards`: attempts run elsewhere,
    so the workers' slots do not show whether they are busy. `hires`: this driver starts workers itself.
    """

    def __init__(self, queue: CampaignCommands, *, label: str, hires: bool, forwards: bool) -> None:
        self._queue = queue
        self._label = label
        self._hires = hires
        self._forwards = forwards
        self._is_inside = os.environ.get(INSIDE_JOB) == queue.campaign
        self._reported: set[tuple[str, str]] = set()
        self._warnings = 0
        self._unserved, self._full, self._too_wide = _Trouble(), _Trouble(), _Trouble()
        self._finished = 0
        self._told_given_back: set[int] = set()

    def look(self, waited_s: float, patience_s: float) -> None:
        """Raises CampaignNotFoundError when the campaign was purged."""
        snapshot = self._queue.snapshot()
        self._look_for_given_back()
        try:
            with self._queue.link.skipping_nodes():
                workers = live_workers(self._queue.link)
        except (DamagedError, NodeAwayError):  # Without the register of workers, results still arrive.
            return
        cards = {worker.card.name: worker.card for worker in workers if _beats(worker)}
        serving = self._serving(snapshot, cards)
        refusals = self._new_refusals(cards)
        refusing = {card.name for card in cards.values() if self._queue.campaign in card.refused}
        if refusals:
            # A worker that refuses may still hold a job, to see whether it can run that by now.
            self._tell_refusals(refusals, served=bool(serving.keys() - refusing))
        # Where workers refuse, that is the reason, and the user was warned of it.
        is_unserved = not serving and not refusing and not self._hires
        if self._unserved.is_due(is_unserved, waited_s, patience_s):
            self._tell_unserved(patience_s)
        if self._full.is_due(self._all_full(snapshot, serving), waited_s, patience_s):
            self._tell_full(len(serving), patience_s)
        self._look_for_width(cards, waited_s, patience_s)

    # Who serves -------------------------------------------------------------------------------------------

    def _serving(self, snapshot: Snapshot, cards: dict[str, WorkerCard]) -> dict[str, WorkerCard | None]:
        """The workers that lease jobs of the campaign or run one. Without a card, only a lease shows them."""
        attending = {lease.worker: lease for lease in snapshot.workers if lease.expiry_ms > snapshot.now_ms}
        serving: dict[str, WorkerCard | None] = {
            name: None for name in attending if name not in cards or attending[name].running
        }
        for name, card in cards.items():
            is_up = card.state != "draining" and not card.announced
            is_willing = self._queue.campaign not in card.refused
            if is_up and is_willing and (name in attending or card.serves(self._queue.campaign, self._label)):
                serving[name] = card
        return serving

    def _all_full(self, snapshot: Snapshot, serving: dict[str, WorkerCard | None]) -> bool:
        """Whether jobs wait while all serving workers are full of other campaigns' jobs, or of drivers."""
        counts = snapshot.counts
        finished = sum(counts[state] for state in State if state.is_final)
        has_moved, self._finished = finished != self._finished, finished
        if self._forwards or snapshot.paused or has_moved or not counts[State.PENDING] or not serving:
            return False
        # In a driver inside a job of its own campaign, all running jobs may be drivers that wait.
        is_idle = counts[State.RUNNING] == 0 or self._is_inside
        return is_idle and all(card is not None and card.is_full for card in serving.values())

    def _look_for_given_back(self) -> None:
        """Warn once of each job that is given back again and again without a new checkpoint."""
        campaign, told = self._queue.campaign, self._told_given_back
        for job, times in self._queue.give_backs(OFTEN_GIVEN_BACK):
            if job in told:
                continue
            told.add(job)
            if len(told) <= MOST_TOLD_GIVEN_BACK:
                warn_user(f"job {job} of campaign {campaign!r} was {told_of(times)}")
            elif len(told) == MOST_TOLD_GIVEN_BACK + 1:
                command = spell_command(self._queue.link.access, "status", campaign)
                warn_user(
                    f"more jobs of campaign {campaign!r} are given back again and again; no more of them are "
                    f"told of here, see: {command}"
                )

    # Warnings ---------------------------------------------------------------------------------------------

    def _new_refusals(self, cards: dict[str, WorkerCard]) -> dict[str, list[str]]:
        """Reason -> workers that gave it and were not reported yet."""
        campaign = self._queue.campaign
        found: dict[str, list[str]] = {}
        if self._warnings > MOST_WARNINGS:
            return found
        for card in cards.values():
            reason = card.refused.get(campaign)
            if reason is not None and (card.name, reason) not in self._reported:
                self._reported.add((card.name, reason))
                found.setdefault(reason, []).append(card.name)
        return found

    def _tell_refusals(self, refusals: dict[str, list[str]], *, served: bool) -> None:
        campaign = self._queue.campaign
        room = MOST_WARNINGS - self._warnings
        shown, rest = list(refusals.items())[:room], list(refusals.items())[room:]
        for reason, workers in shown:
            others = f" (and {len(workers) - 1} others)" if len(workers) > 1 else ""
            verb = "has stepped aside from" if served else "does not serve"
            warn_user(f"worker {workers[0]}{others} {verb} campaign {campaign!r}: {reason}")
        self._warnings += len(shown)
        if rest:
            self._warnings += 1
            count = len({name for _, workers in rest for name in workers})
            warn_user(
                f"{count} more workers do not serve campaign {campaign!r}, the first because: {rest[0][0]}; "
                "no more of them are told of here, see: queue-eval workers --json"
            )

    def _tell_unserved(self, patience_s: float) -> None:
        campaign = self._queue.campaign
        warn_user(
            f"no worker has served campaign {campaign!r} for {patience_s:.0f} s; "
            f"start one with: {spell_worker(self._queue.link.access, campaign)}"
        )

    def _tell_full(self, count: int, patience_s: float) -> None:
        campaign = self._queue.campaign
        workers = f"all {count} workers that serve" if count > 1 else "the only worker that serves"
        have = "have" if count > 1 else "has"
        if self._is_inside:
            why = "with jobs that may wait as this one does, for a slot that they take themselves"
        elif INSIDE_JOB in os.environ:
            why = "with jobs of other campaigns, maybe with the very job that this driver runs in"
        else:
            why = "with jobs of other campaigns"
        warn_user(
            f"{workers} campaign {campaign!r} {have} been busy for {patience_s:.0f} s {why}; wait, "
            f"or start another with: {spell_worker(self._queue.link.access, campaign)}"
        )

    def _look_for_width(self, cards: dict[str, WorkerCard], waited_s: float, patience_s: float) -> None:
        """Warn of a job that takes more slots than any worker has that serves the campaign."""
        if self._too_wide.is_warned:
            return
        campaign = self._queue.campaign
        wanted = self._queue.widest_pending()
        slots = (card.slots or 0 for card in cards.values() if card.serves(campaign, self._label))
        widest = max(slots, default=wanted)
        if self._too_wide.is_due(widest < wanted, waited_s, patience_s):
            command = spell_worker(self._queue.link.access, campaign, "-n", str(wanted))
            warn_user(
                f"a job of campaign {campaign!r} takes {wanted} slots, and no worker that serves it has more "
                f"than {widest}; start one with: {command}"
            )


def told_of(times: int) -> str:
    """What is said of a job that was given back so often in a row."""
    return (
        f"given back {times} times in a row without a new checkpoint, so it may never end; let it save "
        "checkpoints more often, or give it workers with more time"
    )


def _beats(worker: LiveWorker) -> bool:
    """Whether a worker has given a sign of life within its lease. Its card stays for two leases."""
    return worker.last_seen_s <= (worker.card.lease_s or LEASE_S)
