"""Selects jobs for a list: which ones, in which order, how many.

::

    pages of records ──▶ state ──▶ conditions ──┬──────────────────────────▶ pages, in the order of ids
                                                ├─ sort: all, or `limit` ──▶ one page
                                                └─ best: `best` of them ───▶ one page

Without `sort` memory stays flat for any number of jobs. `best`, and `sort` with a `limit`, hold so many jobs
at once; `sort` alone holds all that match.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from queue_eval.errors import UsageError
from queue_eval.model.states import State
from queue_eval.model.table_cells import NOTHING
from queue_eval.views.conditions import Condition
from queue_eval.views.job_values import OWN_COLUMNS, value_of
from queue_eval.views.ranking import best_ranked, number_of
from queue_eval.views.records import JobRecordReader

JobLine = dict[str, Any]
"""A job as `JobRecord.as_json` gives it."""


@dataclass
class Selection:
    """Which jobs a user wants to see. Raises UsageError for choices that exclude each other.

    `sort`: a name as of `queue_eval.views.job_values`; "-" in front of it for the greatest first. Jobs
    without the value come last, equal ones by id. `best`: so many jobs that have succeeded, by their
    objective, or by the value named `key`.
    """

    state: State | None = None
    where: tuple[Condition, ...] = ()
    sort: str | None = None
    best: int | None = None
    minimize: bool = False
    key: str | None = None
    limit: int | None = None
    columns: tuple[str, ...] = ()
    """Names that are shown, so that `unknown` tells which of them no job has."""
    _found: set[str] = field(default_factory=set)
    _has_read: bool = False

    def __post_init__(self) -> None:
        if self.best is None:
            if self.minimize or self.key is not None:
                name = "minimize" if self.minimize else "key"
                raise UsageError(f"--{name} says what is best; give --best N with it, or leave it out")
            return
        for name, value in (("sort", self.sort), ("limit", self.limit)):
            if value is not None:
                raise UsageError(f"--best and --{name} exclude each other; leave one of them out")
        if self.state not in (None, State.SUCCEEDED):
            raise UsageError(f"no job that is {self.state} is ever best; leave out --state or --best")

    def pages(self, reader: JobRecordReader) -> Iterator[list[JobLine]]:
        """The jobs, a page at a time; no page is empty. Raises UsageError for a best job without a number."""
        if self.best is not None:
            numbered = ((self._number(job), job["id"], job) for job in self._matching(reader))
            chosen = list(best_ranked(numbered, self.best, minimize=self.minimize))
            if chosen:
                yield chosen
        elif self.sort is not None:
            if chosen := self._sorted(self._matching(reader)):
                yield chosen
        else:
            left = self.limit
            for page in self._matching_pages(reader):
                if page := page[:left]:
                    yield page
                left = None if left is None else left - len(page)
                if left == 0:
                    return

    def unknown(self) -> list[str]:
        """The names asked for that none of the jobs read so far has. Empty where there were no jobs."""
        return self._unseen() if self._has_read else []

    def _unseen(self) -> list[str]:
        wanted = dict.fromkeys((*(condition.name for condition in self.where), *self._other_names()))
        return [name for name in wanted if name not in OWN_COLUMNS and name not in self._found]

    def _other_names(self) -> tuple[str, ...]:
        sort = () if self.sort is None else (self.sort.removeprefix("-"),)
        return (*sort, *self.columns)

    def _matching_pages(self, reader: JobRecordReader) -> Iterator[list[JobLine]]:
        state = self.state if self.best is None else State.SUCCEEDED
        for page in reader.pages_of_state(state):
            jobs = [record.as_json() for record in page]
            self._has_read = self._has_read or bool(jobs)
            for name in self._unseen():
                if any(value_of(job, name) is not NOTHING for job in jobs):
                    self._found.add(name)
            yield [job for job in jobs if all(condition.holds(job) for condition in self.where)]

    def _matching(self, reader: JobRecordReader) -> Iterator[JobLine]:
        for page in self._matching_pages(reader):
            yield from page

    def _sorted(self, jobs: Iterator[JobLine]) -> list[JobLine]:
        """Both orders keep jobs of equal rank in the order of their ids."""
        assert self.sort is not None
        name, is_descending = self.sort.removeprefix("-"), self.sort.startswith("-")

        def rank(job: JobLine) -> tuple[bool, bool, Any]:
            value = value_of(job, name)
            if value is NOTHING or value is None or value != value:
                return (not is_descending, False, 0)
            number = number_of(value)
            return (is_descending, number is None, str(value) if number is None else number)

        if self.limit is None:
            return sorted(jobs, key=rank, reverse=is_descending)
        choose = heapq.nlargest if is_descending else heapq.nsmallest
        return choose(self.limit, jobs, key=rank)

    def _number(self, job: JobLine) -> int | float:
        name = self.key or "objective"
        value = value_of(job, name)
        number = number_of(value)
        if number is not None:
            return number
        if self.key is None:
            kind = type(value).__name__
            keys = [key for key in value if number_of(value[key]) is not None] if kind == "dict" else []
            such = f"--key r:{keys[0]}" if keys else "--key KEY"
            raise UsageError(
                f"the result of job {job['id']} is a {kind}, no number; say what is best with {such}"
            )
        what = "has no" if value is NOTHING else f"has a {type(value).__name__}, no number, as"
        raise UsageError(
            f"job {job['id']} {what} {name!r}; choose another --key, or leave out such jobs with --where"
        )
