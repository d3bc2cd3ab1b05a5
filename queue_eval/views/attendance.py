"""Tells which workers serve a campaign, and why none does that has jobs to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.meta import label_of
from queue_eval.campaign.registry import LiveWorker, WorkerCard, live_workers
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.views.reasons import Reason, Reasons

_DRAINING = "draining"

_LEASE_S = 30.0
"""The lease of a worker whose card does not say it."""


def why_undone(queue: CampaignCommands, *, tells_pause: bool = True) -> str | None:
    """Why no worker does the jobs that are to be done now, and what to do; None if workers do them.

    `tells_pause`: a pause counts as a reason.
    """
    alive = live_workers(queue.link)  # before the snapshot, see why_unserved
    snapshot, campaign, access = queue.snapshot(), queue.campaign, queue.link.access
    if snapshot.paused and tells_pause:
        return Reasons(campaign, access).paused().text
    why = why_unserved(campaign, label_of(queue.meta()), snapshot, alive, access)
    return why.text if why is not None else None


def why_unserved(
    campaign: str, label: str, snapshot: Snapshot, workers: Sequence[LiveWorker], access: Access
) -> Reason | None:
    """Why no worker does the jobs that the campaign has to do. None if one does, also during a pause.

    `workers`: all live workers. They must be read before the snapshot: a worker that ends leaves the campaign
    before it signs off. If the snapshot came first, it could hold a worker that is missing in `workers`, so
    that nobody would know that this worker is draining.
    """
    outstanding, running = snapshot.outstanding, snapshot.counts[State.RUNNING]
    if not outstanding or snapshot.paused:
        return None
    cards = [worker.card for worker in workers]
    attending = [attendance for attendance in snapshot.workers if attendance.expiry_ms > snapshot.now_ms]
    unable = {card.name for card in cards if card.state == _DRAINING or campaign in card.refused}
    able = {attendance.worker for attendance in attending}
    able |= {card.name for card in cards if card.serves(campaign, label)}
    if able - unable:
        return None
    if running == outstanding and any(attendance.running for attendance in attending):
        return None  # workers that are about to end finish what is left
    return nobody_serves(Reasons(campaign, access), label, outstanding, cards)


def nobody_serves(
    reasons: Reasons, label: str, outstanding: int, cards: Sequence[WorkerCard]
) -> Reason:
    """Why none of these workers serves the campaign, of which no other one does, and what to start."""
    campaign = reasons.campaign
    if refusing := [card for card in cards if campaign in card.refused]:
        return reasons.refused(outstanding, refusing)
    if leaving := [card for card in cards if card.state == _DRAINING and card.serves(campaign, label)]:
        return reasons.draining(outstanding, leaving)
    up = [card for card in cards if card.state != _DRAINING]
    for_it = [card for card in up if card.campaigns is None or card.is_for(campaign)]
    if others := [card for card in for_it if not card.serves(campaign, label)]:
        return reasons.wrong_label(outstanding, label, others)
    return reasons.no_worker(outstanding)


def gives_signs(worker: LiveWorker) -> bool:
    """Whether a worker has given a sign of life within its lease. Its card stays for two leases."""
    return worker.last_seen_s <= (worker.card.lease_s or _LEASE_S)


def leases_of(
    campaign: str, label: str, cards: Iterable[WorkerCard], attending: Iterable[str]
) -> list[WorkerCard]:
    """Those of these workers that are up and lease jobs of the campaign. `attending`: who has leased some."""
    names = set(attending)
    return [
        card
        for card in cards
        if card.state != _DRAINING
        and not card.announced
        and campaign not in card.refused
        and (card.name in names or card.serves(campaign, label))
    ]
