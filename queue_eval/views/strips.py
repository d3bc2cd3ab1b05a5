"""Who ran what when: a strip for each slot that was seen at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from queue_eval.campaign.places import places_of
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.campaign.view import CampaignView
from queue_eval.model.moves import Snapshot

MOST_SPANS = 2000
"""The strips are those of so many newest outcomes."""

MOST_WORKERS = 40
_MOST_RUNNING = 400


class Span(NamedTuple):
    """One attempt in a slot."""

    worker: str
    start_ms: float
    end_ms: int | None
    """None while it runs."""
    job: int
    state: str
    """The first letter of its job's state; r while it runs."""


def spans_of(entries: Iterable[ResultEntry]) -> list[Span]:
    """The last attempts of these outcomes."""
    return [
        Span(e.worker, e.started_ms, e.finished_ms, e.id, e.state.value[0])
        for e in entries
        if e.worker and e.started_ms is not None
    ]


def running_spans(view: CampaignView, snapshot: Snapshot) -> list[Span]:
    """The attempts that run, as far as is known when they began."""
    places = places_of(view, view.running_ids(snapshot, _MOST_RUNNING), with_origins=False)
    return [
        Span(place.worker, place.began_ms, None, place.id, "r")
        for place in places
        if place.worker and place.began_ms is not None
    ]


def strips(view: CampaignView, snapshot: Snapshot, finished: Sequence[Span]) -> dict[str, Any]:
    """A lane for each slot, the workers that have run most first. `finished`: of the newest outcomes.

    No outcome tells its slot: an attempt stands in the first lane of its worker that was free.
    """
    return lanes_of([*finished, *running_spans(view, snapshot)], view.hosts_of, snapshot.now_ms)


def lanes_of(
    spans: Iterable[Span], hosts_of: Callable[[Sequence[str]], Sequence[str | None]], to_ms: int
) -> dict[str, Any]:
    """The strips of these attempts. `hosts_of`: gives the hosts of some workers."""
    by_worker: dict[str, list[Span]] = {}
    for span in spans:
        by_worker.setdefault(span.worker, []).append(span)
    ranked = sorted(by_worker, key=lambda worker: (-len(by_worker[worker]), worker))
    shown = sorted(ranked[:MOST_WORKERS])
    hosts = dict(zip(shown, hosts_of(shown), strict=True))
    lanes = [
        {"worker": worker, "host": hosts[worker], "lane": number, "spans": [_drawn(span) for span in lane]}
        for worker in shown
        for number, lane in enumerate(_lanes(by_worker[worker]), start=1)
    ]
    starts = [span.start_ms for worker in shown for span in by_worker[worker]]
    return {
        "from_ms": round(min(starts, default=to_ms)), "to_ms": to_ms, "lanes": lanes,
        "more_workers": len(ranked) - len(shown),
    }  # fmt: skip


def _lanes(spans: list[Span]) -> list[list[Span]]:
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start_ms, span.job)):
        for lane in lanes:
            end_ms = lane[-1].end_ms
            if end_ms is not None and end_ms <= span.start_ms + 1:  # times are rounded to 1 ms
                lane.append(span)
                break
        else:
            lanes.append([span])
    return lanes


def _drawn(span: Span) -> list[Any]:
    return [round(span.start_ms), span.end_ms, span.job, span.state]
