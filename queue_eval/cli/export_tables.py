"""Tables made from JSON lines: .csv and .parquet, in pages."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from queue_eval.campaign.paging import PAGE, pages
from queue_eval.model.codec import EXACT_FLOAT
from queue_eval.model.table_cells import CellWriter, column_names, finite, plain_cell, safe_cell


@dataclass(frozen=True)
class Layout:
    """The columns of a table, and where the lines hold their values."""

    fields: dict[str, str]
    """Our own columns -> the fields of a line that hold them."""
    kinds: dict[str, str]
    """Kinds of values in our own columns. A column that is missing here is text."""
    keys: str | None = None
    """The field whose keys are columns, too."""
    learnt: str | None = None
    """The own column whose kinds of values are learnt from the lines."""
    begins_with_own: bool = False
    """Whether our own columns stand before those of the keys."""


_TIMES = dict.fromkeys(("submitted_at", "started_at", "finished_at", "at"), "time")

JOBS = Layout(
    # The names are those of results.csv and of the DataFrame.
    {
        "id": "id", "objective": "result", "state": "state", "cause": "cause", "attempts": "attempts",
        "worker": "worker", "host": "host", "submitted_at": "submitted_at", "started_at": "started_at",
        "finished_at": "finished_at", "run_s": "run_s", "wait_s": "wait_s", "elapsed_sec": "elapsed_sec",
        "duration": "duration", "source": "source", "error": "error",
    },
    _TIMES
    | dict.fromkeys(("id", "attempts"), "int")
    | dict.fromkeys(("run_s", "wait_s", "elapsed_sec", "duration"), "float"),
    keys="config",
    learnt="objective",
)  # fmt: skip
ATTEMPTS = Layout(
    {
        name: name
        for name in (
            "job", "attempt", "outcome", "cause", "worker", "host", "started_at", "finished_at", "run_s",
            "error",
        )
    },
    _TIMES | {"job": "int", "attempt": "int", "run_s": "float"},
)  # fmt: skip
REPORTS = Layout(
    {name: name for name in ("job", "attempt", "step", "at")},
    _TIMES | dict.fromkeys(("job", "attempt", "step"), "int"),
    keys="values",
    begins_with_own=True,
)

_INT64_END = 2**63


class Columns:
    """The columns of a table and the kinds of values in each, learnt from all lines before it is written."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.kinds: dict[str, set[str]] = {}
        """Key -> the kinds of its values."""
        self.learnt: set[str] = set()
        self.cells = CellWriter()

    def learn(self, line: dict[str, Any]) -> None:
        values = self.values_of(line)
        self.cells.learn(values)
        for key, value in values.items():
            self.kinds.setdefault(key, set()).add(_kind(value))
        if self.layout.learnt is not None:
            self.learnt.add(_kind(line[self.layout.fields[self.layout.learnt]]))

    def values_of(self, line: dict[str, Any]) -> dict[str, Any]:
        """The values of a line that have columns by their keys."""
        values: dict[str, Any] = line[self.layout.keys] if self.layout.keys is not None else {}
        return values

    def all(self) -> dict[str, str | None]:
        """Column -> key, or None for a column of our own. Keys named like ours get a prefix."""
        own = self.layout.fields
        named = {column: key for key, column in column_names(self.kinds, own, f"{self.layout.keys}.").items()}
        ours = dict.fromkeys(own)
        return {**ours, **named} if self.layout.begins_with_own else {**named, **ours}

    def kinds_of(self, column: str, key: str | None) -> set[str]:
        """The kinds of values in a column, without null."""
        if key is not None:
            return self.kinds[key] - {"null"}
        if column == self.layout.learnt:
            return self.learnt - {"null"}
        return {self.layout.kinds.get(column, "str")}


def write_csv(lines: Path, target: Path, columns: Columns, *, safe_cells: bool = False) -> None:
    """Cells as in results.csv; see `queue_eval.model.table_cells`. `safe_cells`: for spreadsheets."""
    wanted = columns.all()
    shown: Callable[[Any], Any] = safe_cell if safe_cells else _as_it_is
    # backslashreplace: JSON strings may hold lone surrogates, which UTF-8 cannot.
    with target.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(map(shown, wanted))
        for line in _read(lines):
            cells = [_cell(line, column, key, columns) for column, key in wanted.items()]
            writer.writerow(map(shown, cells))


def write_parquet(lines: Path, target: Path, columns: Columns) -> None:
    """Each column has one type. JSON texts stand in columns of several types, and of lists and dicts.

    They also stand in a column of floats and integers if a float would round one of the integers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = columns.all()
    storages = {column: _storage(columns.kinds_of(column, key)) for column, key in wanted.items()}
    arrow = {
        "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(),
        "json": pa.string(), "time": pa.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    types = {column: arrow[storage] for column, storage in storages.items()}
    schema = pa.schema(list(types.items()))
    with pq.ParquetWriter(target, schema) as writer:
        for page in pages(_read(lines), 10 * PAGE):
            arrays = [
                pa.array([_stored(_value(line, c, key, columns), storages[c]) for line in page], types[c])
                for c, key in wanted.items()
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _value(line: dict[str, Any], column: str, key: str | None, columns: Columns) -> Any:
    return line[columns.layout.fields[column]] if key is None else columns.values_of(line).get(key)


def _cell(line: dict[str, Any], column: str, key: str | None, columns: Columns) -> Any:
    if key is None:
        return plain_cell(_value(line, column, key, columns))
    values = columns.values_of(line)
    return columns.cells.cell(key, values[key]) if key in values else ""


def _as_it_is(cell: Any) -> Any:
    return cell


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= EXACT_FLOAT:
            return "int"
        return "long" if -_INT64_END <= value < _INT64_END else "huge"
    return "null" if value is None else type(value).__name__


def _storage(kinds: set[str]) -> str:
    """How parquet keeps a column of these kinds of values."""
    if not kinds:
        return "text"
    if kinds <= {"int", "long"}:
        return "int"
    if kinds == {"int", "float"}:
        return "float"
    (kind,) = kinds if len(kinds) == 1 else ("mixed",)
    return {"bool": "bool", "float": "float", "str": "text", "time": "time"}.get(kind, "json")


def _stored(value: Any, storage: str) -> Any:
    if value is None:
        return None
    if storage == "json":
        return json.dumps(finite(value))
    if storage == "time":
        return datetime.fromisoformat(value)
    # UTF-8 cannot hold lone surrogates: they are escaped, as in .csv.
    return value.encode("utf-8", "backslashreplace").decode() if storage == "text" else value
