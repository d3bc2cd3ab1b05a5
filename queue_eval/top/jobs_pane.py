"""All jobs, or those that a filter finds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from queue_eval.campaign.paging import pages
from queue_eval.campaign.places import page_size
from queue_eval.errors import UsageError
from queue_eval.foreign_text import last_line, one_line
from queue_eval.model.states import State
from queue_eval.top.headline import STYLES
from queue_eval.top.panes import Pane, Source, Wish, with_words
from queue_eval.top.rows import Column, Row
from queue_eval.top.running_pane import worker_at
from queue_eval.views.conditions import Condition, parse_condition
from queue_eval.views.formats import shown_duration, shown_value
from queue_eval.views.numbers import main_key, numbers_of
from queue_eval.views.records import JobRecord
from queue_eval.views.standing import Standing
from queue_eval.views.summary import MOST_BEST

_SEARCH_S = 0.25
"""One look searches for about so long; where that is not enough, a row says how far it came."""

_MOST_RECENT = 200

COLUMNS = (
    Column("JOB", is_right=True, most=9),
    Column("STATE", least=9, most=9),
    Column("TRIES", least=5, most=5, is_right=True),
    Column("RAN", least=6, most=7, is_right=True),
    Column("RESULT", least=12, most=60),
    Column("CONFIG", least=24, most=200, grows=True),
    Column("WORKER", least=10, most=32),
)


def _rows(source: Source, standing: Standing, wish: Wish) -> list[Row]:
    snapshot = standing.snapshot
    depends_on = (
        wish.sort, wish.words, wish.most, snapshot.last_id, snapshot.newest, snapshot.retried,
        tuple(snapshot.counts.values()),
    )  # fmt: skip
    known = source.cache.get("jobs")
    if known is None or known[0] != depends_on:
        known = source.cache["jobs"] = (depends_on, _read(source, standing, wish))
    return known[1]


def _read(source: Source, standing: Standing, wish: Wish) -> list[Row]:
    states, conditions, words = split(wish.words)
    found: list[Row] = []
    came_to = 0
    deadline = time.monotonic() + _SEARCH_S
    key = source.key if source.key is not None else main_key(standing.overview.summary.keys)
    ids = _candidates(source, standing, wish.sort, states, key)
    for page in pages(ids, min(wish.most, page_size(source.queue))):
        if came_to and time.monotonic() >= deadline:
            told = Text(f"searched as far as job {came_to}", "dim")
            found.append(Row("", ("", "", "", "", "", told, "")))
            break
        came_to = page[-1]
        records = {record.id: record for record in source.records.of(page)}
        for job in page:
            record = records.get(job)
            if record is None or (states and record.state not in states):
                continue
            if conditions and not _holds(record, conditions):
                continue
            found += with_words([_row(record, key)], words)
        if len(found) >= wish.most:
            break
    return found


def split(text: str) -> tuple[set[State], list[Condition], str]:
    """The states that a filter names, its conditions (``lr<0.01``), and its other words."""
    names = {state.value: state for state in State}
    states, conditions, others = set(), [], []
    for word in text.split():
        if word.lower() in names:
            states.add(names[word.lower()])
        else:
            try:
                conditions.append(parse_condition(word))
            except UsageError:  # while it is typed, or no condition at all
                others.append(word)
    return states, conditions, " ".join(others)


def _holds(record: JobRecord, conditions: Sequence[Condition]) -> bool:
    job = record.as_json()
    return all(condition.holds(job) for condition in conditions)


def _candidates(
    source: Source, standing: Standing, sort: str, states: set[State], key: str | None
) -> Iterable[int]:
    """Ids that include those of all jobs in these states, in this order."""
    summary, last = standing.overview.summary, standing.snapshot.last_id
    if sort == "best":
        ranked = summary.best(key, MOST_BEST, source.direction) if key is not None else []
        return [job for job, _ in ranked]
    ids: Sequence[int] = range(1, last + 1)
    if states == {State.RUNNING}:
        ids = sorted(source.queue.running_ids(standing.snapshot, standing.snapshot.counts[State.RUNNING]))
    elif states and states <= {State.FAILED, State.CANCELLED}:
        ids = summary.without_success()
    elif sort == "recent" and not states:
        return _recent(source, standing)
    return ids if sort == "oldest" else ids[::-1]


def _recent(source: Source, standing: Standing) -> Iterator[int]:
    """What runs, what has finished last, and then all others."""
    first = dict.fromkeys(sorted(source.queue.running_ids(standing.snapshot, _MOST_RECENT)))
    first |= dict.fromkeys(entry.id for entry in source.queue.newest(_MOST_RECENT))
    yield from first
    yield from (job for job in range(standing.snapshot.last_id, 0, -1) if job not in first)


def _row(record: JobRecord, key: str | None) -> Row:
    ran = shown_duration(record.run_s) if record.entry is not None else "-"
    return Row(
        str(record.id),
        (
            str(record.id), Text(record.state.value, STYLES[record.state]), str(record.attempts), ran,
            gist(record, key), json.dumps(record.as_json()["config"]), worker_at(record.worker, record.host),
        ),
    )  # fmt: skip


def gist(record: JobRecord, key: str | None) -> Text:
    """The result, of a dict the number that is shown of all; or the last line of the error."""
    if record.state is State.SUCCEEDED:
        if key and record.entry is not None and key in (numbers := numbers_of(record.entry.body)):
            return Text(one_line(f"{key}={numbers[key]:.6g}"))
        return Text(shown_value(record.result, 60))
    if record.error is None:
        return Text("-", "dim")
    last = last_line(record.error)
    cause = record.entry.cause if record.entry is not None else ""
    return Text(one_line(last if cause == "error" else f"{cause}: {last}")[:200], "red")


JOBS = Pane("jobs", "Jobs", COLUMNS, ("recent", "newest", "oldest", "best"), "no such job", _rows)
