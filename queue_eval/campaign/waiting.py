"""Reads how far waiting jobs are from being run: what is before them, and when they are due.

No read grows with the number of jobs.
"""

from __future__ import annotations

from typing import Any

from queue_eval.campaign.view import CampaignView
from queue_eval.model.shape import NARROW, Shape

_MAX_TIME_MS = 1e14
"""A damaged time counts as this one, which is later than any clock shows."""


def pending_ahead(view: CampaignView, job: int, shape: Shape) -> int | None:
    """How many pending jobs, of any shape, come before this one of this shape; None if it is not pending."""
    own = view.keys.pending_of(shape)
    score = view.link.call(lambda client: client.zscore(own, job))
    if score is None:
        return None
    places = [view.keys.pending_of(each) for each in {NARROW, *view.shapes()}]

    def operation(client: Any) -> list[int]:
        pipeline = client.pipeline(transaction=False)
        for place in places:
            pipeline.zcount(place, "-inf", f"({score!r}")
        replies: list[int] = pipeline.execute()
        return replies

    return sum(view.link.call(operation))


def first_pending(view: CampaignView, count: int) -> list[int]:
    """The first pending jobs that have no shape of their own, in order."""
    key = view.keys.pending_of(NARROW)
    members = view.link.call(lambda client: client.zrange(key, 0, count - 1))
    return [int(member) for member in members if member.isdigit()]


def due_ms_of(view: CampaignView, job: int) -> int | None:
    """When a scheduled job is due (Unix time); None where it is not scheduled."""
    key = view.keys.column("scheduled")
    return _due_ms(view.link.call(lambda client: client.zscore(key, job)))


def first_due_ms(view: CampaignView) -> int | None:
    """When the first scheduled job is due (Unix time); None where none is scheduled."""
    key = view.keys.column("scheduled")
    first = view.link.call(lambda client: client.zrange(key, 0, 0, withscores=True))
    return _due_ms(first[0][1]) if first else None


def _due_ms(score: float | None) -> int | None:
    return None if score is None else round(min(max(score, 0.0), _MAX_TIME_MS))
