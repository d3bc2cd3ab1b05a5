"""The documents of a page: of a campaign on its server, or of the rows that an export has written."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.errors import UsageError
from queue_eval.model.codec import encode
from queue_eval.model.states import State
from queue_eval.model.table_cells import finite
from queue_eval.views import panels
from queue_eval.views.curves import Curves
from queue_eval.views.numbers import WHOLE, main_key
from queue_eval.views.pace import rate_per_s
from queue_eval.views.standing import Best, StandingReader, shown_key
from queue_eval.views.strips import MOST_SPANS, Span, lanes_of, spans_of, strips
from queue_eval.views.summary import Summary

Documents = dict[str, Any]

_READ_S = 3600.0
"""A page is of all results: so long they are read at most."""

_MOST_WORKERS = 500
_MOST_CONFIG_CHARACTERS = 20_000
_MOST_SAMPLE_CHARACTERS = 300_000


def campaign_documents(queue: CampaignCommands, key: str | None, direction: str) -> Documents:
    """Of a campaign as it is now. Raises UsageError if no result has a number of this name."""
    with closing(StandingReader(queue, key=key, direction=direction)) as reader:
        standing = reader.read(_READ_S, to_the_end=True)
        summary, snapshot = standing.overview.summary, standing.snapshot
        _check_key(key, summary)
        curves = Curves(queue)
        shown = main_key(summary.keys) if key is None else key
        chosen = curves.chosen(snapshot, summary, shown, direction)
        overview = panels.overview(standing)
        # What to do about them names folders and servers, which are nothing for those who are sent a page.
        overview["reasons"] = [
            {"kind": reason["kind"], "sentence": reason["sentence"]} for reason in overview["reasons"]
        ]
        return _bounded({
            "overview": overview,
            "course": panels.course(summary, shown, direction)
            | {"depth": panels.depths(queue, snapshot, summary)},
            "curves": curves.read(snapshot, chosen),
            "sample": panels.sample(queue, summary, shown, direction),
            "slots": strips(queue, snapshot, reader.reader.spans()),
        })  # fmt: skip


def exported_documents(
    name: str,
    source: str,
    read: Callable[[Collection[int]], Iterable[Mapping[str, Any]]],
    key: str | None,
    direction: str,
) -> Documents:
    """Of finished jobs that stand in a file.

    `source`: what the page calls the file. `read`: gives the jobs from the beginning, each shaped as in
    ``jobs --json``, with the configs of these ids at least. It is called twice. Raises UsageError for no
    jobs, or none with a number named `key`.
    """
    summary = Summary()
    spans: deque[Span] = deque(maxlen=MOST_SPANS)
    hosts: dict[str, str | None] = {}
    created_ms = to_ms = None
    for place, job in enumerate(read(()), start=1):
        entry = _entry(job, place)
        summary.fold(entry)
        spans.extend(spans_of([entry]))
        hosts[entry.worker] = job.get("host")
        begun_ms = _ms(job.get("submitted_at"))
        if begun_ms is None:
            begun_ms = entry.finished_ms - round(1000 * (job.get("duration") or 0))
        created_ms = begun_ms if created_ms is None else min(created_ms, begun_ms)
        to_ms = entry.finished_ms if to_ms is None else max(to_ms, entry.finished_ms)
    if created_ms is None or to_ms is None:
        raise UsageError(f"{source} holds no job that has finished; export a campaign that has some")
    _check_key(key, summary)
    shown = main_key(summary.keys) if key is None else key
    best = summary.best(shown, 1, direction) if shown is not None else []
    wanted = {*panels.sampled_ids(summary, shown, direction), *(job for job, _ in best)}
    found = {job["id"]: (_body(job), job["config"]) for job in read(wanted) if job["id"] in wanted}
    overview = _overview(name, source, summary, created_ms, to_ms, shown)
    for best_id, value in best:
        overview["best"] = Best(best_id, shown or "", value, finite(found[best_id][1])).as_json()
    return _bounded({
        "overview": overview,
        "course": panels.course(summary, shown, direction),
        "sample": panels.sample_of(((job, *found[job]) for job in sorted(found)), shown, direction),
        "slots": lanes_of(spans, lambda workers: [hosts.get(worker) for worker in workers], to_ms),
    })  # fmt: skip


def _overview(
    name: str, source: str, summary: Summary, created_ms: int, to_ms: int, key: str | None
) -> dict[str, Any]:
    counts = {state.value: summary.counts.get(state, 0) for state in State}
    return {
        "campaign": name, "source": source, "function": None, "method": None, "queue": None,
        "created_ms": created_ms, "now_ms": to_ms, "paused": False, "total": None,
        "planned": sum(counts.values()), "counts": counts,
        "rate_per_s": rate_per_s(list(summary.times_ms), created_ms, None), "time_left_s": 0.0,
        "time_left_is_guess": False, "read_share": 1.0, "keys": summary.keys, "key": key, "best": None,
        "reasons": [], "failures": panels.failures(summary), "workers": [],
    }  # fmt: skip


def _entry(job: Mapping[str, Any], place: int) -> ResultEntry:
    """The outcome of a job, as the result stream would hold it in this place."""
    run_s = job.get("run_s")
    finished_ms = _ms(job["finished_at"])
    assert finished_ms is not None
    return ResultEntry(
        f"{place}-0", job["id"], State(job["state"]), job.get("attempts") or 1,
        None if run_s is None else 1000 * run_s, finished_ms, job.get("worker") or "",
        job.get("source") or "", job.get("cause") or "", _body(job),
    )  # fmt: skip


def _body(job: Mapping[str, Any]) -> bytes:
    if job["state"] == State.SUCCEEDED:
        return encode(finite(job["result"])).encode()
    return (job.get("error") or "").encode(errors="replace")


def _ms(moment: str | None) -> int | None:
    return None if moment is None else round(datetime.fromisoformat(moment).timestamp() * 1000)


def _check_key(key: str | None, summary: Summary) -> None:
    if key is not None and key not in summary.keys:
        known = ", ".join(name for name in summary.keys if name != WHOLE)
        raise UsageError(f"no result has a number {shown_key(key)!r}; " + (
            f"they have: {known}" if known else "leave --key out"
        ))  # fmt: skip


def _bounded(documents: Documents) -> Documents:
    """Without what would let a file grow beyond a megabyte."""
    overview, sample = documents["overview"], documents["sample"]
    overview["workers"] = overview["workers"][:_MOST_WORKERS]
    best = overview["best"]
    if best is not None and len(json.dumps(best["config"])) > _MOST_CONFIG_CHARACTERS:
        best["config"] = None
    while sample["columns"] and len(json.dumps(sample)) > _MOST_SAMPLE_CHARACTERS:
        dropped = sample["columns"].pop()
        for row in sample["rows"]:
            del row["config"][dropped]
    return documents
