"""What running jobs report, as the live view draws it: read as it grows, for what is on the screen first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

from queue_eval.campaign.view import CampaignView
from queue_eval.model.report import Report
from queue_eval.views import curves

MOST_POINTS = 400
"""A curve has at most twice as many while it grows."""

_READ_AT_ONCE = 16
"""One look reads the new reports of at most so many jobs: it takes two calls for each of them."""

_MAIN = "objective"


class Curve(curves.Curve):
    """The reports of the newest attempt of a job that has reported."""

    most = MOST_POINTS

    def add(self, found: Iterable[tuple[int, Report]]) -> None:
        for number, report in found:
            if report.attempt != self.attempt:
                self.begin()
            super().add([(number, report)])

    @property
    def attempt(self) -> int:
        return self.end[0]

    @property
    def number(self) -> int:
        """Of the newest report that was read."""
        return self.end[1]

    def copy(self) -> Curve:
        """What another thread may read."""
        found = copy(self)
        found.reports = list(self.reports)
        return found

    @property
    def names(self) -> list[str]:
        """The names of its values, in the order in which they were first reported, ``objective`` first."""
        names = list(dict.fromkeys(name for report in self.reports for name in report.values))
        return sorted(names, key=lambda name: name != _MAIN)

    def values(self, name: str) -> list[float]:
        return [report.values[name] for report in self.reports if name in report.values]


class ReportCurves:
    """The curves of the jobs of one campaign. Assumes: one thread at a time."""

    def __init__(self, view: CampaignView) -> None:
        self._view = view
        self._curves: dict[int, Curve] = {}

    def read(self, ids: Sequence[int], first: Sequence[int] = ()) -> dict[int, Curve]:
        """The curves of those of these jobs that report. What is new is read of some of them, of `first`
        before others; the next look reads the rest. Other jobs are forgotten."""
        heads = dict(zip(ids, self._view.report_heads(ids), strict=True)) if ids else {}
        kept = {job: self._curves.get(job, Curve()) for job, head in heads.items() if head is not None}
        stale = []
        for job, curve in kept.items():
            head = heads[job]
            if head is not None and (head.attempt, head.number) > curve.end:
                stale.append(job)
        wanted = set(first)
        stale.sort(key=lambda job: (job not in wanted, kept[job].last is not None, _age_of(kept[job])))
        for job in stale[:_READ_AT_ONCE]:
            kept[job].add(self._view.reports_of(job, kept[job].end))
        self._curves = kept
        return {job: curve for job, curve in kept.items() if curve.last is not None}


def _age_of(curve: Curve) -> float:
    """Those come first of which nothing was read for longest."""
    return 0.0 if curve.last is None else curve.last.at.timestamp()
