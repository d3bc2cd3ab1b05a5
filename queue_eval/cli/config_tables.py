"""Configs in a .csv file: one per row, under a header of keys.

A column is read as a whole:

1. If each cell is JSON (a number, true, false, null, "text", [1, 2]), each cell is read as that value.
2. If pandas reads each cell as a number, or each as True or False, so is it read here. None is null.
3. Otherwise all cells are text, except those that are a JSON string or null.

An empty cell means that the config does not have the key. In a column of text it is empty text, unless
queue_eval has written the file (results.csv, exports). Our own columns in such files are left out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from queue_eval.cli.export_tables import JOBS
from queue_eval.errors import ConfigError
from queue_eval.model.table_cells import (
    NOTHING,
    RESULT_COLUMNS,
    cells_of_any_length,
    is_no_number,
    json_of,
    keys_of_columns,
    word_of,
)
from queue_eval.user_warning import warn_user

_SEPARATORS = ",;\t|"
_MAX_TRIED_ROWS = 50
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


@dataclass
class _Table:
    header: list[str]
    rows: list[list[str]]
    places: list[str]
    """Where each row stands, in the words of error messages."""


def configs_of_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each config stands in the file, and the config.

    Raises ConfigError if the file is not CSV. Warns of values that are read as text.
    """
    table = _read(path)
    _check_header(path, table.header)
    own: tuple[str, ...] = ()
    for ours in (RESULT_COLUMNS, tuple(JOBS.fields)):
        if tuple(table.header[-len(ours) :]) == ours:
            own = ours
    wanted = table.header[: len(table.header) - len(own)]
    keys = keys_of_columns(wanted, own)
    columns = {
        keys[name]: _values(path, table, name, [row[i] for row in table.rows], is_ours=bool(own))
        for i, name in enumerate(wanted)
    }
    for i, place in enumerate(table.places):
        yield place, {key: values[i] for key, values in columns.items() if values[i] is not NOTHING}


def _values(path: Path, table: _Table, name: str, cells: list[str], *, is_ours: bool) -> list[Any]:
    """The values of a column; NOTHING for a key that the config does not have."""
    present = [cell for cell in cells if cell]
    alone = {cell: json_of(cell) for cell in present}
    if NOTHING in alone.values():
        words = _words(present)
        if words is not None:
            alone = words
        else:
            alone = {cell: v if isinstance(v, str) or v is None else cell for cell, v in alone.items()}
            _warn_of_text(path, table, name, cells)
    is_text = all(isinstance(value, str) or value is None for value in alone.values())
    empty = "" if is_text and not is_ours else NOTHING
    return [alone[cell] if cell else empty for cell in cells]


def _words(cells: Iterable[str]) -> dict[str, Any] | None:
    """The values that pandas reads in a column of only numbers or only booleans; None for other columns."""
    values = {cell: word_of(cell) for cell in cells}
    known = [value for value in values.values() if value is not NOTHING and value is not None]
    if any(not isinstance(value, bool) for value in known):
        values |= {cell: float(cell) for cell in values if is_no_number(cell)}
    are_numbers = {not isinstance(value, bool) for value in values.values() if value is not None}
    return None if NOTHING in values.values() or len(are_numbers) > 1 else values


def _warn_of_text(path: Path, table: _Table, name: str, cells: list[str]) -> None:
    """Warn of a value that is read as text because other cells of its column are text."""
    values = [word_of(cell) for cell in cells]
    are_numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    is_mostly_numbers = 2 * sum(are_numbers) > sum(map(bool, cells))
    for cell, value, is_number, place in zip(cells, values, are_numbers, table.places, strict=True):
        if is_number:
            is_doubtful = value == 0 or is_mostly_numbers
        elif value is NOTHING:
            is_doubtful = cell[:1] in ("[", "{") and json_of(cell) is not NOTHING
        else:
            is_doubtful = cell.strip() != "null"
        if is_doubtful:
            warn_user(
                f"{path}, column {name!r}: {cell!r} ({place}) is read as text, for not all of the column is "
                "numbers, or true and false; write the configs as .jsonl if it is no text"
            )
            return
    with_comma = [bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in cells]
    cases = zip(cells, are_numbers, with_comma, strict=True)
    if any(with_comma) and all(is_number or has_comma or not cell for cell, is_number, has_comma in cases):
        at = with_comma.index(True)
        warn_user(
            f"{path}, column {name!r}: {cells[at]!r} ({table.places[at]}) is read as text; "
            "write numbers with a point"
        )


def _read(path: Path) -> _Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    with cells_of_any_length():
        return _parse(path, text, _separator_of(text))


def _parse(path: Path, text: str, separator: str) -> _Table:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    table = _Table([], [], [])
    try:
        table.header = next(rows, [])
        for number, cells in enumerate(rows, 1):
            if not cells:
                continue
            place = f"row {number} (line {rows.line_num})"
            if len(cells) != len(table.header):
                raise ConfigError(
                    f"{path}, {place}: has {len(cells)} cells under {len(table.header)} columns; mend it"
                )
            table.rows.append(cells)
            table.places.append(place)
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: is not CSV ({error}); mend it") from None
    return table


def _separator_of(text: str) -> str:
    """The character between the cells: with it the first rows have as many cells as the header.

    A comma when in doubt.
    """
    doubtful = []
    for separator in _SEPARATORS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
            width, *widths = (len(cells) for cells in islice(rows, 1 + _MAX_TRIED_ROWS) if cells)
        except (csv.Error, ValueError):
            continue
        if width > 1 and all(row_width == width for row_width in widths):
            return separator
        if width > 1 and (separator == "," or max(widths) > 1):
            doubtful.append(separator)
    return doubtful[0] if doubtful else ","


def _check_header(path: Path, header: list[str]) -> None:
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise ConfigError(f"{path}, header: names {doubled[0]!r} twice; rename one")
    if "" in header:
        raise ConfigError(f"{path}, header: column {header.index('') + 1} has no name; give it one")
