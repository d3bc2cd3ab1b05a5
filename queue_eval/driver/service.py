"""Which workers serve a campaign, as its waiting driver sees it, and what keeps its jobs waiting.

::

    jobs given back often   ──▶ look ──▶ one never gets anywhere                warned of at once
    counts of the campaign ─┐
    cards of live workers  ─┴▶ look ──▶ a worker refuses, or has stepped aside   warned of at once
                                   ├──▶ nobody serves it                         after a while of waiting
                                   ├──▶ all that serve it are full of others'    the same
                                   ├──▶ a job is wider than all that serve it    the same
                                   └──▶ no worker ever has the time for a job    the same

Each look costs the same, however long the driver waits: three reads, and the card of every live worker.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import WorkerCard, live_workers
from queue_eval.errors import DamagedError, NodeAwayError
from queue_eval.marks import INSIDE_JOB
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.user_warning import warn_user
from queue_eval.views.attendance import gives_signs, leases_of, nobody_serves
from queue_eval.views.reasons import OFTEN_GIVEN_BACK, Inside, Reason, Reasons
from queue_eval.views.unfit import find_unfit

MOST_WARNINGS = 5
"""So many warnings of workers that refuse. One more counts the workers that come after them."""

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
        self._reasons = Reasons(queue.campaign, queue.link.access)
        self._reported: set[tuple[str, str]] = set()
        self._warnings = 0
        self._unserved, self._full, self._too_wide, self._too_long = (_Trouble() for _ in range(4))
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
        cards = {worker.card.name: worker.card for worker in workers if gives_signs(worker)}
        serving = self._serving(snapshot, cards)
        refusals = self._new_refusals(cards)
        refusing = {card.name for card in cards.values() if self._queue.campaign in card.refused}
        if refusals:
            # A worker that refuses may still hold a job, to see whether it can run that by now.
            self._tell_refusals(refusals, served=bool(serving.keys() - refusing))
        # Where workers refuse, that is the reason, and the user was warned of it.
        is_unserved = bool(snapshot.outstanding) and not serving and not refusing and not self._hires
        if self._unserved.is_due(is_unserved, waited_s, patience_s):
            cards_up = list(cards.values())
            warn_user(nobody_serves(self._reasons, self._label, snapshot.outstanding, cards_up).text)
        if self._full.is_due(self._all_full(snapshot, serving), waited_s, patience_s):
            warn_user(self._reasons.busy(len(serving), self._where()).text)
        self._look_for_unfit(cards, waited_s, patience_s)

    # Who serves -------------------------------------------------------------------------------------------

    def _serving(self, snapshot: Snapshot, cards: dict[str, WorkerCard]) -> dict[str, WorkerCard | None]:
        """The workers that lease jobs of the campaign or run one. Without a card, only a lease shows them."""
        attending = {lease.worker: lease for lease in snapshot.workers if lease.expiry_ms > snapshot.now_ms}
        serving: dict[str, WorkerCard | None] = {
            name: None for name in attending if name not in cards or attending[name].running
        }
        leasing = leases_of(self._queue.campaign, self._label, cards.values(), attending)
        return serving | {card.name: card for card in leasing}

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
        told = self._told_given_back
        for job, times in self._queue.give_backs(OFTEN_GIVEN_BACK):
            if job in told:
                continue
            told.add(job)
            if len(told) <= MOST_TOLD_GIVEN_BACK:
                self._warn_of_job(self._reasons.given_back(job, times))
            elif len(told) == MOST_TOLD_GIVEN_BACK + 1:
                self._warn_of_job(self._reasons.more_given_back())

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
        room = MOST_WARNINGS - self._warnings
        shown, rest = list(refusals.items())[:room], list(refusals.items())[room:]
        for why, workers in shown:
            warn_user(self._reasons.refuses(workers, why, served=served).text)
        self._warnings += len(shown)
        if rest:
            self._warnings += 1
            count = len({name for _, workers in rest for name in workers})
            warn_user(self._reasons.more_refuse(count, rest[0][0]).text)

    def _look_for_unfit(self, cards: dict[str, WorkerCard], waited_s: float, patience_s: float) -> None:
        """Warn of a job that takes more slots than any worker has that serves the campaign, or asks for more
        time."""
        if self._too_wide.is_warned and self._too_long.is_warned:
            return
        serving = [card for card in cards.values() if card.serves(self._queue.campaign, self._label)]
        unfit = find_unfit(self._queue.pending_shapes(), serving)
        for trouble, is_too_wide in ((self._too_wide, True), (self._too_long, False)):
            worst = max((job for job in unfit if job.is_too_wide == is_too_wide), default=None)
            if trouble.is_due(worst is not None, waited_s, patience_s) and worst is not None:
                self._warn_of_job(self._reasons.unfit("a job", worst))

    def _warn_of_job(self, reason: Reason) -> None:
        """Warn of some job: its sentence does not name the campaign."""
        warn_user(f"campaign {self._queue.campaign!r}: {reason.text}")

    def _where(self) -> Inside:
        if self._is_inside:
            return Inside.THIS_CAMPAIGN
        return Inside.ANOTHER_CAMPAIGN if INSIDE_JOB in os.environ else Inside.NO_JOB
