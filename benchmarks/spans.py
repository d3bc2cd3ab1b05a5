"""When jobs ran, by the clock of the run function itself (`functions.timed`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from queue_eval import Job


@dataclass(frozen=True)
class Span:
    slot: str
    began: float
    ended: float


def spans_of(jobs: Sequence[Job], expected: int) -> list[Span]:
    """By their begin. Raises RuntimeError unless each of the jobs is there and right."""
    right = [job for job in jobs if job.state == "succeeded" and job.result[0] == job.config["x"]]
    if len(right) != expected:
        raise RuntimeError(f"{len(right)} of {expected} jobs came back with right results")
    return sorted((Span(*job.result[1:]) for job in jobs), key=lambda span: span.began)


def gaps_ms(spans: Iterable[Span]) -> list[float]:
    """Between the end of one job and the start of the next on each slot."""
    by_slot: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_slot[span.slot].append(span)
    return [1000 * (b.began - a.ended) for chain in by_slot.values() for a, b in pairwise(chain)]


def use(spans: Sequence[Span], slots: int, warm_s: float) -> float:
    """Percent of the slots' time in which jobs ran, in the steady state.

    That is from `warm_s` after the first start to the last start: until then there was always a job that had
    not begun, so that every moment of a free slot counts against us, and the tail does not.
    """
    since, until = spans[0].began + warm_s, spans[-1].began
    if until <= since:
        raise RuntimeError("too few jobs: there was no steady state")
    busy = sum(max(0.0, min(span.ended, until) - max(span.began, since)) for span in spans)
    return 100 * busy / (slots * (until - since))
