"""Groups failed jobs by the last line of their errors."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from queue_eval.model.states import Outcome

MOST_GROUPS = 200
"""Failures beyond so many groups form one group of their own."""

OTHERS = "other failures"
_NEWEST = 5
_LINE_CHARACTERS = 200
_TAIL_BYTES = 4000

_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass
class FailureGroup:
    """Failed jobs whose errors end with the same line, apart from numbers in it."""

    line: str
    """The line. Where the jobs differ in numbers, # stands for each of them."""
    cause: str
    """Why they failed: "error", "time_limit" and so on (`Outcome`)."""
    count: int = 0
    first_ms: int = 0
    """When the first of them finished, and the last (Unix)."""
    last_ms: int = 0
    newest: list[int] = field(default_factory=list)
    """The jobs that came last, the newest first."""

    def add(self, job: int, line: str, finished_ms: int) -> None:
        if line != self.line:
            self.line = masked(line)
        self.count += 1
        self.first_ms = self.first_ms or finished_ms
        self.last_ms = finished_ms
        self.newest = [job, *self.newest[: _NEWEST - 1]]

    def remove(self, job: int) -> None:
        self.count -= 1
        self.newest = [other for other in self.newest if other != job]  # who draws the old list keeps it

    @property
    def title(self) -> str:
        """What the group is called: its line, behind the cause where that is no error of the run function."""
        if not self.line:
            return self.cause or OTHERS
        return self.line if self.cause in ("", Outcome.ERROR) else f"{self.cause}: {self.line}"


class FailureGroups:
    """The groups of one campaign, in the order in which they were first seen. A group keeps its place."""

    def __init__(self) -> None:
        self.groups: list[FailureGroup] = []
        self._places: dict[tuple[str, str], int] = {}

    def add(self, job: int, cause: str, error: bytes, finished_ms: int) -> int:
        """Count a failure. Returns the place of its group."""
        line = last_line(error)
        place = self._place_of(cause, line)
        self.groups[place].add(job, line if place < MOST_GROUPS else OTHERS, finished_ms)
        return place

    def remove(self, job: int, place: int) -> None:
        """The job does not count as failed any more: it runs again."""
        self.groups[place].remove(job)

    def ranked(self) -> list[FailureGroup]:
        """The groups that have any, the largest first."""
        return sorted((g for g in self.groups if g.count), key=lambda g: (-g.count, -g.last_ms))

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(group) for group in self.groups]

    @classmethod
    def of(cls, document: list[dict[str, Any]]) -> FailureGroups:
        """From `as_json`. Raises TypeError for anything else."""
        found = cls()
        for place, group in enumerate(document):
            found.groups.append(FailureGroup(**group))
            found._places[group["cause"], masked(group["line"])] = place
        return found

    def _place_of(self, cause: str, line: str) -> int:
        name = (cause, masked(line))
        place = self._places.get(name)
        if place is None and len(self.groups) >= MOST_GROUPS:
            name, line, cause = ("", OTHERS), OTHERS, ""
            place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self.groups)
            self.groups.append(FailureGroup(line, cause))
        return place


def last_line(error: bytes) -> str:
    """The last line of an error's text that is not empty; of a traceback that is the exception."""
    text = error[-_TAIL_BYTES:].decode(errors="replace").rstrip()
    return text.rpartition("\n")[2].strip()[:_LINE_CHARACTERS]


def masked(line: str) -> str:
    """The line with # in place of each number."""
    return _NUMBER.sub("#", line)
