"""Failed jobs by what they failed of, and the newest of each group."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.text import Text

from queue_eval.foreign_text import one_line
from queue_eval.top.panes import Pane, Source, Wish, with_words
from queue_eval.top.rows import Column, Row
from queue_eval.top.running_pane import worker_at
from queue_eval.views.failure_groups import FailureGroup
from queue_eval.views.formats import shown_duration
from queue_eval.views.records import JobRecord
from queue_eval.views.standing import Standing

_MOST_GROUPS = 50
_SHOWN_JOBS = 3

COLUMNS = (
    Column("JOBS", least=5, most=9, is_right=True),
    Column("WHAT THEY FAILED OF", least=20, most=200, grows=True),
    Column("LAST", least=8, most=12, is_right=True),
    Column("WORKER", least=8, most=24),
)


def _rows(source: Source, standing: Standing, wish: Wish) -> list[Row]:
    groups = standing.overview.summary.groups.ranked()
    if wish.sort == "newest":
        groups.sort(key=lambda group: -group.last_ms)
    groups = groups[:_MOST_GROUPS]
    shown = [job for group in groups for job in group.newest[:_SHOWN_JOBS]]
    depends_on = tuple(shown)
    if source.cache.get("failed", (None,))[0] != depends_on:
        source.cache["failed"] = (depends_on, [])
        source.failed = {record.id: record for record in source.records.of(shown)}
    found: list[Row] = []
    for group in groups:
        # A group stays with its jobs when the filter finds any of them.
        place = standing.overview.summary.groups.groups.index(group)
        rows = _of_group(place, group, source.failed, standing.snapshot.now_ms)
        if with_words(rows, wish.words):
            found += rows
    return found


def _of_group(
    place: int, group: FailureGroup, records: Mapping[int, JobRecord], now_ms: int
) -> list[Row]:
    ago = f"{shown_duration(max(0, now_ms - group.last_ms) / 1000)} ago"
    rows = [Row(f"group {place}", (str(group.count), Text(one_line(group.title), "red"), ago, ""))]
    for job in group.newest[:_SHOWN_JOBS]:
        record = records.get(job)
        if record is not None:
            config = one_line(json.dumps(record.as_json()["config"]))
            finished = record.finished_ms
            ago = "-" if finished is None else f"{shown_duration(max(0, now_ms - finished) / 1000)} ago"
            what = Text.assemble(f"  job {job}  ", (config, "dim"))
            rows.append(Row(str(job), ("", what, ago, worker_at(record.worker, record.host))))
    if group.count > len(rows) - 1:
        more = Text(f"  and {group.count - len(rows) + 1} more", "dim")
        rows.append(Row(f"group {place} more", ("", more, "", "")))
    return rows


FAILED = Pane("failed", "Failed", COLUMNS, ("size", "newest"), "nothing has failed", _rows)
