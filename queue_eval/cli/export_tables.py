"""Tables made from JSON lines: .csv and .parquet, in pages."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from queue_eval.campaign.paging import PAGE, pages
from queue_eval.model.codec import EXACT_FLOAT
from queue_eval.model.table_cells import CellWriter, column_names, finite, plain_cell, safe_cell

_OWN_FIELDS = {  # our own columns -> the fields of a line that hold them
    "id": "id", "objective": "result", "state": "state", "cause": "cause", "attempts": "attempts",
    "worker": "worker", "host": "host", "submitted_at": "submitted_at", "started_at": "started_at",
    "finished_at": "finished_at", "run_s": "run_s", "wait_s": "wait_s", "elapsed_sec": "elapsed_sec",
    "duration": "duration", "source": "source", "error": "error",
}  # fmt: skip
OWN_COLUMNS = tuple(_OWN_FIELDS)
"""The columns of our own, with the names that results.csv and the DataFrame use."""

_OWN_KINDS = {
    **dict.fromkeys(("id", "attempts"), "int"),
    **dict.fromkeys(("submitted_at", "started_at", "finished_at"), "time"),
    **dict.fromkeys(("run_s", "wait_s", "elapsed_sec", "duration"), "float"),
}
"""Kinds of values in our own columns. A column that is missing here is text; the objective's are learnt."""

_INT64_END = 2**63


class Columns:
    """The columns of a table and the kinds of values in each, learnt from all lines before it is written."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[str]] = {}
        """Key of the configs -> the kinds of its values."""
        self.results: set[str] = set()
        self.cells = CellWriter()

    def learn(self, line: dict[str, Any]) -> None:
        self.cells.learn(line["config"])
        for key, value in line["config"].items():
            self.kinds.setdefault(key, set()).add(_kind(value))
        self.results.add(_kind(line["result"]))

    def all(self) -> dict[str, str | None]:
        """Column -> key of the config, or None for a column of our own. Keys named like ours get a prefix."""
        named = {column: key for key, column in column_names(self.kinds, _OWN_FIELDS).items()}
        return {**named, **dict.fromkeys(_OWN_FIELDS)}

    def kinds_of(self, column: str, key: str | None) -> set[str]:
        """The kinds of values in a column, without null."""
        if key is None and column != "objective":
            return {_OWN_KINDS.get(column, "str")}
        return (self.results if key is None else self.kinds[key]) - {"null"}


def write_csv(lines: Path, target: Path, columns: Columns, *, safe_cells: bool = False) -> None:
    """Cells as in results.csv; see `queue_eval.model.table_cells`. `safe_cells`: for spreadsheets."""
    wanted = columns.all()
    shown: Callable[[Any], Any] = safe_cell if safe_cells else _as_it_is
    # backslashreplace: JSON strings may hold lone surrogates, which UTF-8 cannot.
    with target.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(map(shown, wanted))
        for line in _read(lines):
            cells = [_cell(line, column, key, columns.cells) for column, key in wanted.items()]
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
                pa.array([_stored(_value(line, c, key), storages[c]) for line in page], types[c])
                for c, key in wanted.items()
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _value(line: dict[str, Any], column: str, key: str | None) -> Any:
    return line[_OWN_FIELDS[column]] if key is None else line["config"].get(key)


def _cell(line: dict[str, Any], column: str, key: str | None, writer: CellWriter) -> Any:
    if key is None:
        return plain_cell(_value(line, column, key))
    return writer.cell(key, line["config"][key]) if key in line["config"] else ""


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
