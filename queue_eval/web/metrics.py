"""What `/metrics` shows, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from queue_eval.campaign.registry import WorkerCard
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Sample = tuple[dict[str, str], float]


class CampaignNumbers(NamedTuple):
    """What is shown of one campaign."""

    name: str
    snapshot: Snapshot
    rate_per_s: float | None
    """None: nothing has finished yet."""


def exposition(campaigns: Sequence[CampaignNumbers], workers: Sequence[WorkerCard]) -> str:
    """All metrics. They are of the server: no job is read for them."""
    jobs = [
        ({"campaign": one.name, "state": state}, one.snapshot.counts[state])
        for one in campaigns
        for state in State
    ]
    outcomes = [({"campaign": o.name}, o.snapshot.finished + o.snapshot.retried) for o in campaigns]
    rates = [({"campaign": one.name}, one.rate_per_s or 0.0) for one in campaigns]
    paused = [({"campaign": one.name}, int(one.snapshot.paused)) for one in campaigns]
    states = Counter(card.state for card in workers)
    return "".join((
        _metric("jobs", "gauge", "Jobs of a campaign by state.", jobs),
        _metric("outcomes_total", "counter", "Jobs that have ended; each end counts.", outcomes),
        _metric("results_per_second", "gauge", "Pace of the newest results.", rates),
        _metric("paused", "gauge", "1 while a campaign is paused.", paused),
        _metric("workers", "gauge", "Live workers by state.",
                [({"state": state}, count) for state, count in sorted(states.items())]),
        _metric("slots", "gauge", "Slots of live workers.", [({}, sum(card.slots or 0 for card in workers))]),
        _metric("slots_busy", "gauge", "Slots that were taken at the last heartbeat.",
                [({}, sum(card.busy or 0 for card in workers))]),
    ))  # fmt: skip


def _metric(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> str:
    name = f"queue_eval_{name}"
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
