"""How commands show things: JSON documents and tables.

Tables are columns, aligned and two spaces apart; on a terminal some words have colours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from queue_eval.cli.terminal import Coloured, say, say_json
from queue_eval.foreign_text import one_line
from queue_eval.model.states import State
from queue_eval.model.table_cells import finite

COLOURS: dict[str, str] = {
    State.SCHEDULED: "cyan",
    State.PENDING: "blue",
    State.RUNNING: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def print_json(document: Any) -> None:
    """Print one JSON document. NaN and infinities, which JSON lacks, are written as null."""
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(document), indent=2)
    say_json(text)


Line = list[str | Coloured]
"""The parts of one line."""


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = ()) -> None:
    """Print rows under headers. The columns with the indices `right` are aligned to the right."""
    for line in table_lines(headers, rows, right=right):
        say(*line)


def table_lines(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = ()
) -> Iterator[Line]:
    """The lines of a table: rows under headers."""
    texts = [[_cell(value) for value in row] for row in rows]
    to_right = set(right)
    lines = [[header.upper() for header in headers], *texts]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [
            text.rjust(width) if i in to_right else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        padded[-1] = padded[-1].rstrip()
        cells = [styled(text, text.strip()) for text in padded]
        yield [*(part for cell in cells[:-1] for part in (cell, "  ")), cells[-1]]


_ALLOCATION_COLUMNS = {
    "scheduler_job": "scheduler job", "node": "node", "restarts": "restarts", "allocation_ends_at": "ends"
}  # fmt: skip


def worker_lines(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Iterable[int],
    allocations: Sequence[Mapping[str, Any]],
) -> Iterator[Line]:  # fmt: skip
    """The lines of a table of workers, with further columns for what schedulers say of them, unless empty."""
    shown = [name for name in _ALLOCATION_COLUMNS if any(allocation.get(name) for allocation in allocations)]
    return table_lines(
        [*headers, *(_ALLOCATION_COLUMNS[name] for name in shown)],
        [
            [*row, *(_allocation_cell(name, allocation.get(name)) for name in shown)]
            for row, allocation in zip(rows, allocations, strict=True)
        ],
        right=[*right, *(len(headers) + i for i, name in enumerate(shown) if name == "restarts")],
    )


def shown_allocation(allocation: Mapping[str, Any]) -> str | None:
    """What a scheduler says of a worker, in one line; None when nothing is said."""
    if not allocation:
        return None
    parts = [f"{allocation['scheduler']} job {allocation['scheduler_job']}"]
    if allocation["node"]:
        parts.append(f"on node {allocation['node']}")
    if allocation["restarts"]:
        parts.append(f"restarted {allocation['restarts']} time{'s' * (allocation['restarts'] > 1)}")
    if allocation["allocation_ends_at"]:
        parts.append(f"ends {_allocation_cell('allocation_ends_at', allocation['allocation_ends_at'])}")
    return ", ".join(parts)


def _allocation_cell(name: str, value: Any) -> Any:
    """The value as a table shows it: a time in the form of the other times."""
    return f"{value[:19].replace('T', ' ')} UTC" if name == "allocation_ends_at" and value else value


def styled(text: str, word: str) -> str | Coloured:
    """`text` in the colour of `word`, if that word has one."""
    colour = COLOURS.get(word)
    return text if colour is None else Coloured(text, colour)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return one_line(str(value))
