"""The workers of a campaign: where they are, what they do, how busy their hosts are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from queue_eval.foreign_text import one_line
from queue_eval.top import shares
from queue_eval.top.headline import busy_slots
from queue_eval.top.panes import Pane, Source, Wish, with_words
from queue_eval.top.rows import Column, Row
from queue_eval.views.formats import shown_duration
from queue_eval.views.standing import Standing

_STYLES = {"running": "green", "draining": "yellow", "lost": "red"}

COLUMNS = (
    Column("WORKER", least=8, most=30),
    Column("HOST", least=6, most=24),
    Column("SLOTS", least=5, most=9, is_right=True),
    Column("STATE", least=7, most=9),
    Column("LOAD", least=4, most=5, is_right=True),
    Column("MEM", least=4, most=4, is_right=True),
    Column("SEEN", least=4, most=9, is_right=True),
    Column("GPUS", least=4, most=60, grows=True),
    Column("ALLOCATION", least=10, most=48),
)


def _rows(source: Source, standing: Standing, wish: Wish) -> list[Row]:  # noqa: ARG001 - of a pane
    cards = {worker.card.name: worker.card for worker in standing.live}
    found = []
    for worker in standing.workers:
        card = cards.get(worker["name"])
        busy = busy_slots(worker | {"busy": None if card is None else card.busy})
        found.append((busy, _row(worker, busy)))
    if wish.sort == "busiest":
        found.sort(key=lambda one: -one[0])
    return with_words([row for _, row in found], wish.words)


def _row(worker: Mapping[str, Any], busy: int) -> Row:
    slots = worker["slots"]
    state, seen_s = str(worker["state"]), worker["last_seen_s"]
    return Row(
        str(worker["name"]),
        (
            str(worker["name"]), str(worker["host"] or "-"),
            str(worker["running"]) if slots is None else f"{busy}/{slots}",
            Text(one_line(state), _STYLES.get(state, "")), shares.load(worker) or "-",
            shares.memory(worker) or "-", "-" if seen_s is None else shown_duration(seen_s),
            shares.gpus(worker) or "-", _allocation(worker),
        ),
    )  # fmt: skip


def _allocation(worker: Mapping[str, Any]) -> str:
    if "scheduler" not in worker:
        return "-"
    parts = [f"{worker['scheduler']} {worker['scheduler_job']}"]
    if worker["allocation_ends_at"]:
        parts.append(f"ends {str(worker['allocation_ends_at'])[:16].replace('T', ' ')}")
    return ", ".join(parts)


WORKERS = Pane("workers", "Workers", COLUMNS, ("name", "busiest"), "no worker serves this campaign", _rows)
