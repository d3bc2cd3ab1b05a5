"""The report on an attack, as tables or as one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from queue_eval.chaos.evidence import Evidence
from queue_eval.chaos.invariants import Verdict, judge
from queue_eval.foreign_text import one_line

_MAX_SHOWN_DETAILS = 5
"""How many violations of a law are printed below the table. The JSON document has more."""

_MAX_JSON_DETAILS = 100
_WIDTH_COLUMNS = 120


@dataclass(frozen=True)
class FaultLine:
    """The faults of one kind that was asked for: how many, and how long they lasted."""

    kind: str
    count: int
    median_s: float
    longest_s: float


@dataclass(frozen=True)
class Report:
    """The results of an attack. `folder`: where its logs are, if they are kept."""

    evidence: Evidence
    verdicts: Sequence[Verdict]
    faults: Sequence[FaultLine]
    elapsed_s: float
    folder: str | None = None

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts)

    @property
    def never_done(self) -> list[str]:
        """Kinds of faults that were asked for but never injected: the attack shows nothing about these."""
        return [line.kind for line in self.faults if not line.count]

    def as_json(self) -> dict[str, Any]:
        settings = self.evidence.settings
        return {
            "holds": self.holds,
            "command": settings.command(),
            "seed": settings.seed,
            "method": settings.method.value,
            "evaluations": settings.evaluations,
            "elapsed_s": round(self.elapsed_s, 1),
            "faults": {
                line.kind: {
                    "count": line.count, "median_s": round(line.median_s, 2),
                    "longest_s": round(line.longest_s, 2),
                }
                for line in self.faults
            },
            "never_done": self.never_done,
            "invariants": [
                {
                    "law": verdict.law, "holds": verdict.holds, "figure": verdict.figure,
                    "broken": len(verdict.broken), "details": list(verdict.broken[:_MAX_JSON_DETAILS]),
                }
                for verdict in self.verdicts
            ],
            "folder": self.folder,
        }  # fmt: skip


def report_on(evidence: Evidence, elapsed_s: float) -> Report:
    """Judge the evidence, and count faults by kind."""
    lines = []
    for kind in sorted(" ".join(pair) for pair in evidence.settings.faults):
        lasted = [fault.lasted_s for fault in evidence.faults if fault.kind == kind]
        middle, longest = (median(lasted), max(lasted)) if lasted else (0.0, 0.0)
        lines.append(FaultLine(kind, len(lasted), middle, longest))
    return Report(evidence, judge(evidence), lines, elapsed_s)


def print_report(report: Report) -> None:
    """Print two tables, of faults and laws, to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_COLUMNS)
    settings = report.evidence.settings
    faults = Table(title=f"{sum(line.count for line in report.faults)} faults in {report.elapsed_s:.0f} s")
    for header in ("fault", "done", "median", "longest"):
        faults.add_column(header, justify="left" if header == "fault" else "right")
    for line in report.faults:
        faults.add_row(line.kind, str(line.count), f"{line.median_s:.1f} s", f"{line.longest_s:.1f} s")
    console.print(faults)
    if report.never_done:
        console.print(f"never done, so nothing is shown of: {', '.join(report.never_done)}", markup=False)
    title = f"{settings.evaluations} evaluations, method {settings.method.value}, seed {settings.seed}"
    laws = Table(title=title)
    for header in ("", "invariant", "seen"):
        laws.add_column(header)
    for verdict in report.verdicts:
        mark = "[green]holds[/]" if verdict.holds else "[bold red]BROKEN[/]"
        laws.add_row(mark, verdict.law, verdict.figure)
    console.print(laws)
    for verdict in report.verdicts:
        for detail in verdict.broken[:_MAX_SHOWN_DETAILS]:
            console.print(f"  {verdict.law}: {one_line(detail)}", markup=False, soft_wrap=True)
        if len(verdict.broken) > _MAX_SHOWN_DETAILS:
            console.print(f"  {verdict.law}: {len(verdict.broken) - _MAX_SHOWN_DETAILS} more", markup=False)
