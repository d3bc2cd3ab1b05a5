"""The table of jobs: filtered, sorted and cut into pages here, so that a browser never holds a campaign.

::

    candidates ──▶ read a page of records ──▶ state, where ──▶ rows, until there are enough or time is up
    (ids, from the cursor on)                                   │
                                                                └─ sorted by a value: all that match among the
                                                                   newest MOST_SORTED are read first. The best
                                                                   of all are known without that.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import pages
from queue_eval.campaign.places import page_size, places_of
from queue_eval.errors import UsageError
from queue_eval.model.codec import decode, encode
from queue_eval.model.states import State
from queue_eval.model.table_cells import NOTHING, finite
from queue_eval.views.conditions import Condition, parse_condition
from queue_eval.views.failure_groups import last_line
from queue_eval.views.job_values import OBJECTIVES, value_of
from queue_eval.views.panels import flat
from queue_eval.views.records import JobRecord, JobRecordReader
from queue_eval.web.pushed import to_json

MOST_ROWS = 500
MOST_SORTED = 10_000
"""A table that is sorted by a value holds so many jobs: the newest of those that are asked for."""

_FEW = 20_000
"""Of a state that fewer jobs have, only these are looked at; else all jobs, page by page."""

_LOOK_S = 2.0
"""A filter looks at jobs for so long; then it answers with what it has found."""

_FIRST_PAGE = 64
_MOST_CONDITIONS = 20
_LAST = 2


class Question(NamedTuple):
    """What a table shows."""

    state: State | None
    conditions: Sequence[Condition]
    sort: str
    """The name of a value; "id" and "-id" need no sorting."""
    is_descending: bool
    limit: int
    after: Any
    """Where the page before has ended: an id, or [*order, id]; None: this is the first."""

    @property
    def is_of_best(self) -> bool:
        """Whether it asks for the best of all jobs."""
        is_of_all = self.state in (None, State.SUCCEEDED) and not self.conditions
        return is_of_all and self.sort in OBJECTIVES


def parse_question(state: str, where: Sequence[str], sort: str, limit: str, after: str) -> Question:
    """From the words of an address; empty ones are defaults. Raises UsageError."""
    if state and state not in set(State):
        raise UsageError(f"there is no state {state[:50]!r}; give one of {', '.join(State)}")
    if len(where) > _MOST_CONDITIONS:
        raise UsageError(f"{len(where)} conditions are too many; give at most {_MOST_CONDITIONS}")
    if limit and not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= MOST_ROWS):
        raise UsageError(f"limit {limit[:50]!r} is not valid; give 1 to {MOST_ROWS}")
    sort = sort or "-id"
    return Question(
        State(state) if state else None, [parse_condition(given) for given in where if given.strip()],
        sort.removeprefix("-"), sort.startswith("-"), int(limit or 100), _cursor(after),
    )  # fmt: skip


class JobTable:
    """Answers questions about the jobs of one campaign."""

    def __init__(self, queue: CampaignCommands) -> None:
        self._queue = queue
        self._reader = JobRecordReader(queue)

    def answer(
        self, question: Question, best: Callable[[str], Sequence[int]], ids: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """A page of rows, and the cursor of the next one.

        `best`: the best jobs that are known, in a direction. `ids`: only these jobs; None: all.
        """
        snapshot = self._queue.snapshot()
        if ids is None:
            candidates, count = self._candidates(question.state, snapshot.last_id, snapshot.counts)
        else:
            candidates, count = ids, len(ids)
        total = None if question.conditions else count
        if question.sort == "id":
            return self._in_order(question, candidates) | {"total": total}
        if ids is None and len(candidates) > MOST_SORTED and question.is_of_best:
            ranked = best("max" if question.is_descending else "min")
            of_best = f"the {len(ranked)} best of {count} jobs"
            return self._sorted(question, sorted(ranked)) | {"total": total, "note": of_best}
        note = None
        if len(candidates) > MOST_SORTED:
            note = f"sorted among the newest {MOST_SORTED} of {len(candidates)} jobs"
        return self._sorted(question, candidates[-MOST_SORTED:]) | {"total": total, "note": note}

    def _in_order(self, question: Question, candidates: Sequence[int]) -> dict[str, Any]:
        after = question.after if isinstance(question.after, int) else None
        if question.is_descending:
            candidates = candidates[::-1]
        if after is not None:
            is_behind = (lambda job: job < after) if question.is_descending else (lambda job: job > after)
            candidates = candidates[_first(candidates, is_behind) :]
        found: list[JobRecord] = []
        deadline = time.monotonic() + _LOOK_S
        last = None
        for page, matching in self._matching(question, candidates, question.limit):
            last = page[-1]
            found += matching
            if len(found) >= question.limit or time.monotonic() >= deadline:
                break
        rows = found[: question.limit]
        if len(found) > question.limit:
            last = rows[-1].id
        is_end = last is None or last == candidates[-1]
        return {"rows": self._rows(rows), "next": None if is_end else to_json(last)}

    def _sorted(self, question: Question, candidates: Sequence[int]) -> dict[str, Any]:
        after = question.after if isinstance(question.after, list) else None
        sign = -1 if question.is_descending else 1
        keyed = (
            (_Order(_order_of(_value(record.as_json(), question.sort)), sign, record.id), record)
            for _, matching in self._matching(question, candidates, MOST_SORTED)
            for record in matching
        )
        if after is not None:
            end = _Order((after[0], after[1]), sign, after[2])
            keyed = ((order, record) for order, record in keyed if end < order)
        best = heapq.nsmallest(question.limit + 1, keyed, key=lambda pair: pair[0])
        rows = best[: question.limit]
        cursor = None
        if len(best) > len(rows):
            last = rows[-1][0]
            cursor = to_json([last.rank, last.value, last.id])
        return {"rows": self._rows([record for _, record in rows]), "next": cursor}

    def _matching(
        self, question: Question, candidates: Sequence[int], wanted: int
    ) -> Iterator[tuple[Sequence[int], list[JobRecord]]]:
        """Pages of ids, each with the records among them that match."""
        size = page_size(self._queue)
        first = min(size, max(_FIRST_PAGE, wanted))
        for page in chain([list(candidates[:first])], pages(candidates[first:], size)):
            if page:
                yield page, [record for record in self._reader.of(page) if _matches(question, record)]

    def _candidates(
        self, state: State | None, last_id: int, counts: dict[State, int]
    ) -> tuple[Sequence[int], int]:
        """Ids in ascending order that include those of all jobs in this state, and how many these are."""
        every = range(1, last_id + 1)
        if state is None:
            return every, last_id
        outstanding = sum(count for one, count in counts.items() if not one.is_final)
        few = outstanding if not state.is_final else counts[state]
        if few > _FEW or state is State.SUCCEEDED:
            return every, counts[state]
        if state.is_final:
            key = self._queue.keys.column(state.value)
            members = self._queue.link.call(lambda client: client.smembers(key))
            return sorted(int(member) for member in members if member.isdigit()), counts[state]
        ids = {job for job, found, _ in self._queue.outstanding() if found is state}
        return sorted(ids), counts[state]

    def _rows(self, records: Sequence[JobRecord]) -> list[dict[str, Any]]:
        running = [record.id for record in records if record.state is State.RUNNING]
        places = places_of(self._queue, running, with_origins=False)
        began = {place.id: place.began_ms for place in places}
        return [_row(record, began.get(record.id)) for record in records]


class _Order:
    """Sorts by a value, upwards or downwards; what has none comes last both ways. Then by id."""

    __slots__ = ("id", "rank", "sign", "value")

    def __init__(self, order: tuple[int, Any], sign: int, job: int) -> None:
        self.rank, self.value = order
        self.sign = sign
        self.id = job

    def __lt__(self, other: _Order) -> bool:
        one, two = (self.rank, self.value), (other.rank, other.value)
        if one == two:
            return self.id < other.id
        if _LAST in (self.rank, other.rank):
            return self.rank < other.rank
        return one < two if self.sign > 0 else two < one


def _order_of(value: Any) -> tuple[int, Any]:
    """Numbers come before text; NaN, null and nothing come last."""
    if type(value) in (int, float):
        return (0, value) if value == value else (_LAST, 0)
    if value is NOTHING or value is None:
        return (_LAST, 0)
    return (1, value if isinstance(value, str) else encode(value))


def _value(job: dict[str, Any], name: str) -> Any:
    """A value of a job by name. What ranks a job whose result is a dict is the `objective` in it."""
    value = value_of(job, name)
    return value.get("objective", NOTHING) if name in OBJECTIVES and isinstance(value, dict) else value


def _matches(question: Question, record: JobRecord) -> bool:
    if question.state is not None and record.state is not question.state:
        return False
    if not question.conditions:
        return True
    job = record.as_json()
    return all(condition.holds(job) for condition in question.conditions)


def _row(record: JobRecord, began_ms: int | None) -> dict[str, Any]:
    job = record.as_json()
    entry = record.entry
    objective = _value(job, "objective")
    row = {
        "id": record.id, "state": record.state.value, "attempts": record.attempts, "worker": record.worker,
        "host": record.host, "submitted_ms": record.submitted_ms,
        "started_ms": began_ms if entry is None else entry.started_ms, "finished_ms": record.finished_ms,
        "run_s": record.run_s, "config": finite(flat(job["config"])), "cause": job["cause"],
        "error_line": None if record.error is None or entry is None else last_line(entry.body),
    }  # fmt: skip
    if type(objective) in (int, float, str):
        row["objective"] = finite(objective)
    return row


def _first(candidates: Sequence[int], is_behind: Callable[[int], bool]) -> int:
    """The place of the first candidate that is behind the cursor. They are in order."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if is_behind(candidates[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def _cursor(text: str) -> Any:
    if not text:
        return None
    try:
        cursor = decode(text)
    except ValueError:
        cursor = None
    is_place = isinstance(cursor, list) and len(cursor) == 3 and isinstance(cursor[2], int)
    if not (isinstance(cursor, int) or (is_place and _is_order(cursor[:2]))):
        raise UsageError("`after` is no cursor of this table; give the `next` of the page before")
    return cursor


def _is_order(order: list[Any]) -> bool:
    rank, value = order
    return rank in (0, 1, 2) and type(value) in ((int, float) if rank != 1 else (str,))
