"""Tells whether any worker does the jobs of a campaign, and if none does, why, and what to start."""

from __future__ import annotations

from collections.abc import Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.meta import label_of
from queue_eval.campaign.registry import LiveWorker, WorkerCard, live_workers
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_command, spell_worker

_MAX_SHOWN_REFUSALS = 3
"""How many workers that refuse a campaign are named."""


def why_undone(queue: CampaignCommands, *, tells_pause: bool = True) -> str | None:
    """Why no worker does the jobs that are to be done now, and what to do; None if workers do them.

    `tells_pause`: a pause counts as a reason.
    """
    alive = live_workers(queue.link)  # before the snapshot, see why_unserved
    snapshot, campaign, access = queue.snapshot(), queue.campaign, queue.link.access
    if snapshot.paused and tells_pause:
        resume = spell_command(access, "resume", campaign)
        return f"campaign {campaign!r} is paused; let it go on with: {resume}"
    return why_unserved(campaign, label_of(queue.meta()), snapshot, alive, access)


def why_unserved(
    campaign: str, label: str, snapshot: Snapshot, workers: Sequence[LiveWorker], access: Access
) -> str | None:
    """One sentence if the campaign has jobs to do and no worker does them. Else None, also during a pause.

    `workers`: all live workers. They must be read before the snapshot: a worker that ends leaves the campaign
    before it signs off. If the snapshot came first, it could hold a worker that is missing in `workers`, so
    that nobody would know that this worker is draining.
    """
    outstanding, running = snapshot.outstanding, snapshot.counts[State.RUNNING]
    if not outstanding or snapshot.paused:
        return None
    cards = [worker.card for worker in workers]
    refusing = [card for card in cards if campaign in card.refused]
    leaving = {card.name for card in cards if card.state == "draining"}
    attending = [attendance for attendance in snapshot.workers if attendance.expiry_ms > snapshot.now_ms]
    unable = leaving | {card.name for card in refusing}
    able = {attendance.worker for attendance in attending}
    able |= {card.name for card in cards if card.serves(campaign, label)}
    if able - unable:
        return None
    if running == outstanding and any(attendance.running for attendance in attending):
        return None  # workers that are about to end finish what is left
    jobs = f"{outstanding} job{'' if outstanding == 1 else 's'} of campaign {campaign!r}"
    verb = "waits" if outstanding == 1 else "wait"
    if refusing:
        return f"{jobs} {verb}, and nobody serves it: {_refusals(campaign, refusing)}"
    return f"{jobs} {verb}, and nobody serves it; start a worker with: {spell_worker(access, campaign)}"


def _refusals(campaign: str, refusing: Sequence[WorkerCard]) -> str:
    named = refusing[:_MAX_SHOWN_REFUSALS]
    shown = [f"worker {card.name} does not ({card.refused[campaign]})" for card in named]
    more = len(refusing) - len(shown)
    return ", ".join([*shown, f"nor do {more} others"] if more else shown)
