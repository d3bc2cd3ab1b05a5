"""Curves of what jobs report: read as they grow, and thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from queue_eval.campaign.view import CampaignView
from queue_eval.model.moves import Snapshot
from queue_eval.model.report import Report
from queue_eval.model.table_cells import finite
from queue_eval.views.summary import Summary

MOST_CURVES = 20
MOST_POINTS = 200
"""A curve has at most twice as many while it grows."""

_MOST_ASKED = 200
_BEST_SHOWN = 5


class Curve:
    """The reports of one job, every `every`-th of them, the first one included."""

    most = MOST_POINTS

    def __init__(self) -> None:
        self.end = (0, 0)
        """Attempt and number of the newest report that was read."""
        self.last: Report | None = None
        self.begin()

    def begin(self) -> None:
        """Keep none of the reports so far."""
        self.reports: list[Report] = []
        self._every = 1
        self._passed = 0

    def add(self, found: Iterable[tuple[int, Report]]) -> None:
        """Add (number, report) of what is new, in order."""
        for number, report in found:
            self.end, self.last = (report.attempt, number), report
            if self._passed % self._every == 0:
                self.reports.append(report)
            self._passed += 1
            if len(self.reports) > 2 * self.most:
                self.reports = self.reports[::2]
                self._every *= 2

    def drawn(self, name: str) -> list[list[float | None]]:
        return [[r.step, finite(r.values[name])] for r in self.reports if name in r.values]


class Curves:
    """The curves of one campaign. A look reads only reports that are new. Assumes: one thread at a time."""

    def __init__(self, view: CampaignView) -> None:
        self._view = view
        self._curves: dict[int, Curve] = {}

    def read(self, snapshot: Snapshot, ids: Sequence[int], name: str | None = None) -> dict[str, Any]:
        """The curves of these jobs. `name`: of the value that is shown; None: of the first that is there."""
        running = set(self._view.running_ids(snapshot, _MOST_ASKED))
        chosen = list(ids)[:MOST_CURVES]
        for job, head in zip(chosen, self._view.report_heads(chosen), strict=True):
            curve = self._curves.setdefault(job, Curve())
            if head is not None and (head.attempt, head.number) > curve.end:
                curve.add(self._view.reports_of(job, curve.end))
        self._curves = {job: self._curves[job] for job in chosen}
        names = list(dict.fromkeys(n for c in self._curves.values() for r in c.reports for n in r.values))
        shown = name if name in names or not names else names[0]
        return {
            "names": names, "name": shown,
            "curves": [
                {
                    "id": job, "state": "running" if job in running else "finished",
                    "points": curve.drawn(shown) if shown is not None else [],
                    "last_ms": round(curve.reports[-1].at.timestamp() * 1000),
                }
                for job, curve in self._curves.items()
                if curve.reports
            ],
        }  # fmt: skip

    def chosen(self, snapshot: Snapshot, summary: Summary, key: str | None, direction: str) -> list[int]:
        """The jobs whose curves are shown unless others are asked for: those that run and report, then the
        best ones."""
        running = self._view.running_ids(snapshot, _MOST_ASKED)
        best = [job for job, _ in summary.best(key or "", _BEST_SHOWN, direction)]
        asked = [*sorted(running), *(job for job in best if job not in running)]
        heads = self._view.report_heads(asked)
        return [job for job, head in zip(asked, heads, strict=True) if head is not None and head.points][
            :MOST_CURVES
        ]
