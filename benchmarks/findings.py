"""What a scenario has found, in one form for all: rows, and the rounds behind them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.goals import GOALS


@dataclass(frozen=True)
class Row:
    key: str
    """Its name within the scenario, stable: the table of goals refers to it."""
    what: str
    value: float
    unit: str
    note: str = ""


@dataclass
class Found:
    rows: list[Row] = field(default_factory=list)
    rounds: Mapping[str, Any] = field(default_factory=dict)
    """Every figure of which the rows show a median."""
    missing: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    def as_json(self, scenario: str, title: str) -> dict[str, Any]:
        rows = []
        for row in self.rows:
            one: dict[str, Any] = {
                "key": row.key, "what": row.what, "value": row.value, "unit": row.unit, "note": row.note,
            }  # fmt: skip
            if goal := GOALS.get((scenario, row.key)):
                one |= {"goal": str(goal), "met": goal.is_met(row.value)}
            rows.append(one)
        return {"title": title, "rows": rows, "missing": self.missing, "rounds": self.rounds}


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within each round: what else the machine does changes from round to round."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
