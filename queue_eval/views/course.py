"""The course of a campaign: all its outcomes in their order, in a bounded number of stretches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.model.states import State

MOST_STRETCHES = 1024
"""A campaign of fewer outcomes has one stretch for each of them."""


@dataclass(slots=True)
class Stretch:
    """Some outcomes that followed each other."""

    count: int
    failed: int
    cancelled: int
    first_ms: int
    """When the first of them finished, and the last (Unix)."""
    last_ms: int
    busy_ms: int
    """How long their last attempts ran, together."""

    def join(self, other: Stretch) -> None:
        """Add the stretch behind this one."""
        self.count += other.count
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.last_ms = other.last_ms
        self.busy_ms += other.busy_ms


@dataclass(slots=True)
class Extremes:
    """The lowest and the highest value in one stretch, each with its job."""

    low: float
    low_id: int
    high: float
    high_id: int

    def add(self, low: float, low_id: int, high: float, high_id: int) -> None:
        if low < self.low:
            self.low, self.low_id = low, low_id
        if high > self.high:
            self.high, self.high_id = high, high_id


class Course:
    """Stretches of `width` outcomes each. When there are too many of them, two and two become one.

    It tells what has happened, also of jobs that ran again since.
    """

    def __init__(self) -> None:
        self.width = 1
        self.stretches: list[Stretch] = []
        self.values: dict[str, list[Extremes | None]] = {}
        """By the name of a number in the results: one item per stretch."""

    def add(self, entry: ResultEntry, numbers: dict[str, float]) -> None:
        """Add the outcome behind all others, with the numbers in its result."""
        time_ms, busy_ms = entry.finished_ms, round(entry.run_ms or 0)
        failed, cancelled = entry.state is State.FAILED, entry.state is State.CANCELLED
        one = Stretch(1, int(failed), int(cancelled), time_ms, time_ms, busy_ms)
        if self.stretches and self.stretches[-1].count < self.width:
            self.stretches[-1].join(one)
        else:
            self._begin(one)
        last = len(self.stretches) - 1
        for name, value in numbers.items():
            column = self.values.get(name)
            if column is None:
                column = self.values[name] = [None] * len(self.stretches)
            extremes = column[last]
            if extremes is None:
                column[last] = Extremes(value, entry.id, value, entry.id)
            else:
                extremes.add(value, entry.id, value, entry.id)

    def as_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "stretches": [
                [s.count, s.failed, s.cancelled, s.first_ms, s.last_ms, s.busy_ms] for s in self.stretches
            ],
            "values": {
                name: [None if e is None else [e.low, e.low_id, e.high, e.high_id] for e in column]
                for name, column in self.values.items()
            },
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> Course:
        """From `as_json`. Raises TypeError, LookupError or ValueError for anything else."""
        found = cls()
        found.width = int(document["width"])
        found.stretches = [Stretch(*numbers) for numbers in document["stretches"]]
        found.values = {
            name: [None if e is None else Extremes(*e) for e in column]
            for name, column in document["values"].items()
        }
        if any(len(column) != len(found.stretches) for column in found.values.values()):
            raise ValueError("a column of values is not as long as the stretches")
        return found

    def _begin(self, one: Stretch) -> None:
        if len(self.stretches) == MOST_STRETCHES:
            self._halve()
            if self.stretches[-1].count < self.width:
                self.stretches[-1].join(one)
                return
        self.stretches.append(one)
        for column in self.values.values():
            column.append(None)

    def _halve(self) -> None:
        self.width *= 2
        for left, right in zip(self.stretches[::2], self.stretches[1::2], strict=False):
            left.join(right)
        self.stretches = self.stretches[::2]
        self.values = {name: _joined(column) for name, column in self.values.items()}


def _joined(column: list[Extremes | None]) -> list[Extremes | None]:
    for left, right in zip(range(0, len(column), 2), range(1, len(column), 2), strict=False):
        one, other = column[left], column[right]
        if one is None:
            column[left] = other
        elif other is not None:
            one.add(other.low, other.low_id, other.high, other.high_id)
    return column[::2]
