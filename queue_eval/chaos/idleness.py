"""Finds workers that were idle while jobs waited, though no fault stood in the way.

A worker is judged when the last fault has been over for `SETTLED_S`, jobs are pending (not scheduled for
later), and it has attended the campaign, alive, without a break for `SETTLED_S`. It is idle if it has a free
slot. With `thread`, abandoned threads keep their slots, so a worker is idle only if it holds nothing. Workers
that forward have no slots of their own: they are idle only if none of them holds anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from queue_eval.chaos.evidence import SAME_NAME, Evidence, Sample
from queue_eval.chaos.settings import Settings
from queue_eval.model.states import Method

SETTLED_S = 2.0
_MAX_SAMPLE_GAP_S = 1.0
"""If two samples are further apart, nothing is known of the time between."""

_EVERYONE = "(all)"

_ENDS = ("kill worker", "drain worker", "term-all worker")
"""After these faults a worker is gone, unless its next life has the same name."""


@dataclass(frozen=True)
class Idle:
    """The longest time for which a worker was idle."""

    worker: str
    seconds: float
    at: float
    looked_at: int
    """In how many samples workers were judged."""


def longest_idle(evidence: Evidence) -> Idle:
    """The longest idle time of any worker, over all samples."""
    settled = _Settled(evidence)
    gone = {
        name: fault.at
        for fault in evidence.faults
        if fault.kind in _ENDS and fault.detail != SAME_NAME
        for name in fault.workers
    }
    longest, looked_at = Idle("", 0.0, 0.0, 0), 0
    attending: dict[str, float] = {}
    idle: dict[str, float] = {}
    last = 0.0
    for sample in evidence.samples:
        at = sample.at
        if at - last > _MAX_SAMPLE_GAP_S:
            attending, idle = {}, {}
        last = at
        attending = {name: attending.get(name, at) for name in sample.running if at < gone.get(name, at + 1)}
        if not (settled.at(at) and sample.pending):
            idle = {}
            continue
        looked_at += 1
        there = [name for name, since in attending.items() if at - since >= SETTLED_S]
        idle = {name: idle.get(name, at) for name in _idle(sample, there, evidence.settings)}
        for name, since in idle.items():
            if at - since > longest.seconds:
                longest = Idle(name, at - since, since, 0)
    return Idle(longest.worker, longest.seconds, longest.at, looked_at)


def _idle(sample: Sample, there: list[str], settings: Settings) -> Iterator[str]:
    if settings.is_forwarding:
        if there and not any(sample.running.values()):
            yield _EVERYONE
        return
    needed = 1 if settings.method is Method.THREAD else settings.slots
    yield from (name for name in there if sample.running[name] < needed)


class _Settled:
    """Tells whether all faults before a moment have been over for `SETTLED_S`. Assumes: `at` is called in the
    order of time."""

    def __init__(self, evidence: Evidence) -> None:
        spans = [(fault.at, fault.until) for fault in evidence.faults]
        self._spans = sorted([*spans, *evidence.stalls], key=lambda span: span[0])
        self._next = 0
        self._over_at = 0.0

    def at(self, moment: float) -> bool:
        while self._next < len(self._spans) and self._spans[self._next][0] <= moment:
            until = self._spans[self._next][1]
            self._over_at = max(self._over_at, float("inf") if until is None else until)
            self._next += 1
        return moment >= self._over_at + SETTLED_S
