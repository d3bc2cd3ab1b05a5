"""Whether anybody serves a campaign that has jobs to do; if not, what to start."""

from __future__ import annotations

from collections.abc import Sequence

from queue_eval.campaign.registry import LiveWorker, WorkerCard
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_worker

_MOST_REFUSALS = 3


def why_unserved(
    campaign: str, label: str, snapshot: Snapshot, workers: Sequence[LiveWorker], access: Access
) -> str | None:
    """One sentence when jobs of the campaign are to be done and nobody does them; else None.

    `workers`: all live ones, read before the snapshot. A worker that ends leaves the campaign before it signs
    off: in the other order, one that ends in between is in the snapshot and is not known to be draining.
    A campaign that is paused is not judged: nobody is to serve it.
    """
    outstanding, running = snapshot.outstanding, snapshot.counts[State.RUNNING]
    if not outstanding or snapshot.paused:
        return None
    cards = [worker.card for worker in workers]
    refusing = [card for card in cards if campaign in card.refused]
    leaving = {card.name for card in cards if card.state == "draining"}
    attending = [one for one in snapshot.workers if one.expiry_ms > snapshot.now_ms]
    unable = leaving | {card.name for card in refusing}
    able = {one.worker for one in attending} | {c.name for c in cards if c.serves(campaign, label)}
    if able - unable:
        return None
    if running == outstanding and any(one.running for one in attending):
        return None  # what is left is being finished by one that is about to end
    many = f"{outstanding} job{'' if outstanding == 1 else 's'} of campaign {campaign!r}"
    verb = "waits" if outstanding == 1 else "wait"
    if refusing:
        return f"{many} {verb}, and nobody serves it: {_refusals(campaign, refusing)}"
    return f"{many} {verb}, and nobody serves it; start a worker with: {spell_worker(access, campaign)}"


def _refusals(campaign: str, refusing: Sequence[WorkerCard]) -> str:
    told = [f"worker {card.name} does not ({card.refused[campaign]})" for card in refusing[:_MOST_REFUSALS]]
    more = len(refusing) - len(told)
    return ", ".join([*told, f"nor do {more} others"] if more else told)
