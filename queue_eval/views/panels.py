"""What each panel of a view shows, as documents of JSON: times are Unix ms, numbers are finite or None.

The browser, pages and plots draw the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from queue_eval.campaign.meta import created_ms_of
from queue_eval.campaign.view import CampaignView
from queue_eval.model.moves import Snapshot
from queue_eval.model.table_cells import finite
from queue_eval.views.numbers import main_key, numbers_of
from queue_eval.views.records import JobRecordReader
from queue_eval.views.standing import Standing, described
from queue_eval.views.summary import Summary

MOST_BEST = 100
MOST_BY_CHANCE = 500
"""A sample of jobs has so many of the best, and so many others."""

MOST_COLUMNS = 20
"""A sample shows so many keys of configs at most."""

_MOST_WORDS = 20
"""A key whose values are words is shown if it has at most so many of them."""

_MOST_WORD_CHARACTERS = 60
_SAMPLED_SUBMISSIONS = 64


def overview(standing: Standing) -> dict[str, Any]:
    """The campaign as a whole."""
    summary, snapshot, pace = standing.overview.summary, standing.snapshot, standing.pace
    document = described(standing.campaign, standing.meta, snapshot)
    del document["created_at"], document["expires_at"]
    return document | {
        "created_ms": created_ms_of(standing.meta),
        "now_ms": snapshot.now_ms,
        "planned": snapshot.planned,
        "rate_per_s": pace.rate_per_s,
        "time_left_s": pace.time_left_s,
        "time_left_is_guess": pace.is_guess,
        "read_share": standing.overview.read_share,
        "keys": list(summary.keys),
        "key": main_key(summary.keys),
        "best": finite(None if standing.best is None else standing.best.as_json()),
        "reasons": [reason.as_json() for reason in standing.reasons],
        "failures": failures(summary),
        "workers": standing.workers,
    }  # fmt: skip


def failures(summary: Summary) -> list[dict[str, Any]]:
    """The groups of failed jobs, the largest first."""
    return [
        {"line": group.title, "cause": group.cause or None, "count": group.count, "newest": group.newest,
         "first_ms": group.first_ms, "last_ms": group.last_ms}
        for group in summary.groups.ranked()
    ]  # fmt: skip


def course(summary: Summary, key: str | None, direction: str = "max") -> dict[str, Any]:
    """All outcomes in their order, a stretch of them at a time, and the best value so far.

    `key`: the name of a number in the results; None: the main one.
    """
    key = main_key(summary.keys) if key is None else key
    stretches = summary.course.stretches
    extremes = summary.course.values.get(key or "", [None] * len(stretches))
    numbers, best, best_ids = [], [], []
    number, best_so_far, best_id = 0, None, None
    sign = 1 if direction == "max" else -1
    for stretch, found in zip(stretches, extremes, strict=True):
        number += stretch.count
        numbers.append(number)
        if found is not None:
            value, job = (found.high, found.high_id) if direction == "max" else (found.low, found.low_id)
            if best_so_far is None or sign * value > sign * best_so_far:
                best_so_far, best_id = value, job
        best.append(best_so_far)
        best_ids.append(best_id)
    spans_s = [_span_s(stretches, i) for i in range(len(stretches))]
    return {
        "key": key, "direction": direction, "width": summary.course.width, "number": numbers,
        "ms": [s.last_ms for s in stretches], "count": [s.count for s in stretches],
        "failed": [s.failed for s in stretches], "cancelled": [s.cancelled for s in stretches],
        "busy": _per_s([s.busy_ms / 1000 for s in stretches], spans_s),
        "rate": _per_s([s.count for s in stretches], spans_s),
        "low": [None if e is None else e.low for e in extremes],
        "low_id": [None if e is None else e.low_id for e in extremes],
        "high": [None if e is None else e.high for e in extremes],
        "high_id": [None if e is None else e.high_id for e in extremes],
        "best": best, "best_id": best_ids,
    }  # fmt: skip


def depths(view: CampaignView, snapshot: Snapshot, summary: Summary) -> list[int]:
    """How many jobs were submitted and not finished, at the end of each stretch of the course; about.

    Some submissions are asked when they came; jobs between two of them are taken to have come evenly.
    """
    last = snapshot.last_id
    step = max(1, last // _SAMPLED_SUBMISSIONS)
    ids = sorted({*range(1, last + 1, step), last} - {0})
    known = [(found[0], job) for job, found in zip(ids, view.configs_of(ids), strict=True) if found]
    known.sort()
    found, done = [], 0
    for stretch in summary.course.stretches:
        done += stretch.count
        found.append(max(0, _submitted_by(known, stretch.last_ms) - done))
    return found


def sample(view: Any, summary: Summary, key: str | None, direction: str = "max") -> dict[str, Any]:
    """Some jobs that have succeeded, with their configs: the best, and others by chance.

    `view`: `CampaignCommands`.
    """
    key = main_key(summary.keys) if key is None else key
    ids = sampled_ids(summary, key, direction)
    jobs = (
        (record.id, record.entry.body, record.as_json()["config"])
        for record in JobRecordReader(view).of(ids)
        if record.entry is not None
    )
    return sample_of(jobs, key, direction)


def sampled_ids(summary: Summary, key: str | None, direction: str) -> list[int]:
    """The jobs of a sample, in the order of their ids."""
    best = {job for job, _ in summary.best(key or "", MOST_BEST, direction)}
    return sorted(best | set([job for job in summary.sample() if job not in best][:MOST_BY_CHANCE]))


def sample_of(
    jobs: Iterable[tuple[int, bytes, Mapping[str, Any]]], key: str | None, direction: str
) -> dict[str, Any]:
    """The sample of these jobs: of each its id, its result (JSON) and its config."""
    rows: list[dict[str, Any]] = []
    for job, result, config in jobs:
        value = numbers_of(result).get(key or "")
        if value is not None:
            rows.append({"id": job, "value": value, "config": flat(config)})
    columns = shown_columns([row["config"] for row in rows])
    for row in rows:
        row["config"] = {name: row["config"].get(name) for name in columns}
    return {"key": key, "direction": direction, "columns": columns, "rows": rows}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and words of a config; those in a dict within it as ``outer.inner``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": deeper for inner, deeper in value.items() if _is_shown(deeper)}
        elif _is_shown(value):
            found[name] = value
    return found


def shown_columns(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that differ between configs: numbers, or a few words."""
    names = dict.fromkeys(name for config in configs for name in config)
    found = []
    for name in names:
        values = {config.get(name) for config in configs}
        words = {value for value in values if isinstance(value, str)}
        if len(values) > 1 and len(words) <= _MOST_WORDS:
            found.append(name)
    return found[:MOST_COLUMNS]


def _is_shown(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _MOST_WORD_CHARACTERS
    return value is None or isinstance(value, bool) or (type(value) in (int, float) and _is_drawn(value))


def _is_drawn(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _per_s(amounts: Sequence[float], spans_s: Sequence[float | None]) -> list[float | None]:
    return [amount / span if span else None for amount, span in zip(amounts, spans_s, strict=True)]


def _span_s(stretches: Sequence[Any], i: int) -> float | None:
    """From the outcome before a stretch to its last one."""
    start_ms = stretches[i - 1].last_ms if i else stretches[i].first_ms
    span_ms = stretches[i].last_ms - start_ms
    return span_ms / 1000 if span_ms > 0 else None


def _submitted_by(known: Sequence[tuple[int, int]], time_ms: int) -> int:
    """How many jobs had been submitted by then. `known`: (when, the id that came then), in order."""
    before, last_id = 0, 0
    for when_ms, job in known:
        if when_ms > time_ms:
            if not last_id:
                return 0
            part = (time_ms - before) / (when_ms - before)
            return last_id + int(part * (job - last_id))
        before, last_id = when_ms, job
    return last_id
