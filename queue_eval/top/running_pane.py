"""The jobs that run, with what they report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from queue_eval.campaign.places import Place, hosts_by_worker, places_of
from queue_eval.foreign_text import one_line
from queue_eval.model.codec import decode
from queue_eval.top.panes import Pane, Source, Wish, with_words
from queue_eval.top.report_curves import Curve
from queue_eval.top.rows import Column, Row
from queue_eval.top.sparkline import sparkline
from queue_eval.views.formats import shown_duration
from queue_eval.views.standing import Standing

_MOST = 200

COLUMNS = (
    Column("JOB", is_right=True, most=9),
    Column("RUNS", least=6, most=7, is_right=True),
    Column("WORKER", least=8, most=32),
    Column("NEWEST", least=21, most=28),
    Column("REPORTS", least=8, most=20, grows=True),
    Column("CONFIG", least=10, most=60, grows=True),
)


def _rows(source: Source, standing: Standing, wish: Wish) -> list[Row]:
    snapshot = standing.snapshot
    ids = sorted(source.queue.running_ids(snapshot, _MOST))
    places = [place for place in places_of(source.queue, ids, with_origins=True) if place.worker]
    hosts = hosts_by_worker(source.queue, {place.worker for place in places})
    seen = [int(key) for key in wish.seen if key.isdigit()]
    curves = source.curves.read([place.id for place in places], seen)
    stops = dict(zip(ids, source.queue.stops_of(ids), strict=True)) if ids else {}
    found = [
        (place, curve, _row(place, hosts, curve, snapshot.now_ms, is_stopping=stops.get(place.id, False)))
        for place in places
        for curve in (curves.get(place.id),)
    ]
    worst = float("-inf")
    sign = -1 if source.direction == "min" else 1
    if wish.sort == "longest":
        found.sort(key=lambda one: one[0].began_ms or snapshot.now_ms)
    elif wish.sort == "best":
        found.sort(key=lambda one: -(worst if one[1] is None else sign * _newest(one[1])[1]))
    return with_words([row for _, _, row in found], wish.words)


def _row(
    place: Place, hosts: Mapping[str, str], curve: Curve | None, now_ms: int, *, is_stopping: bool
) -> Row:
    began_ms = place.began_ms
    since = "next" if not place.has_begun else shown_duration(
        None if began_ms is None else max(0, now_ms - began_ms) / 1000
    )  # fmt: skip
    is_of_now = curve is not None and curve.attempt == place.attempt
    newest = Text(one_line(_shown_newest(curve) if curve is not None and is_of_now else "-"))
    if is_stopping:
        newest.append(" stopping", "yellow")
    values = curve.values(curve.names[0]) if curve is not None and is_of_now and curve.names else []
    return Row(
        str(place.id),
        (
            str(place.id), since, worker_at(place.worker, hosts.get(place.worker)), newest,
            lambda width: Text(sparkline(values, width), "cyan"), _config(place),
        ),
        "" if place.has_begun else "dim",
    )  # fmt: skip


def worker_at(worker: str | None, host: str | None) -> str:
    """The worker, and its host where the name does not begin with that, as it does by default."""
    if not worker:
        return "-"
    return worker if not host or worker.startswith(host) else f"{worker}@{host}"


def _shown_newest(curve: Curve) -> str:
    name, value = _newest(curve)
    step = curve.last.step if curve.last is not None else 0
    return f"{name}={value:.4g} step {step}" if name else f"step {step}"


def _newest(curve: Curve) -> tuple[str, float]:
    if curve.last is None or not curve.names:
        return "", float("-inf")
    name = curve.names[0]
    values = curve.values(name)
    return name, curve.last.values.get(name, values[-1])


def _config(place: Place) -> str:
    if place.origin is None:
        return ""
    try:
        config: Any = decode(place.origin.config)
    except ValueError:
        return place.origin.config.decode(errors="replace")
    return json.dumps(config)


RUNNING = Pane("running", "Running", COLUMNS, ("id", "longest", "best"), "nothing runs", _rows)
