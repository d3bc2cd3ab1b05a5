"""Writes values into the cells of a CSV file, and reads such cells: one dialect for all tables.

=====================  ===================================================================================
value                  cell
=====================  ===================================================================================
number                 as Python and JSON write it
true, false            `true`, `false`, which pandas reads, too
null in a config       `null`; an empty cell is a key that the config does not have
list, dict             JSON; floats that JSON lacks are null inside
text                   as it is; as a JSON string where it would be read as anything else, or where its
                       column also holds other values
=====================  ===================================================================================

Columns of our own are not read back: text stands as it is, and None is an empty cell.

A table with safe cells (`safe_cell`) is for spreadsheets, and is not read back either.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

RESULT_COLUMNS = ("id", "objective", "elapsed_sec", "duration", "state")
"""The last columns of results.csv. They are our own; the others are the configs'."""

NOTHING = object()
"""Stands for no value."""

BOOLEANS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
"""Words that pandas reads as booleans."""

NULLS = ("None", "null")

_MAX_CELL_CHARACTERS = 2**31 - 1
"""The highest limit that the module csv takes on every system."""

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NO_NUMBERS = re.compile(r"[+-]?(?:inf|infinity)|nan", re.IGNORECASE)
_BLANKS = " \t\r\n"
"""What may stand around a value. str.strip() would remove more, such as the separators of ASCII."""

_FORMULA = re.compile(
    "^(?=[ \0\ufeff]*[=+@\t\r\n\uff0b\uff0d\uff1d\uff20-])"
    "|(?<=[;\t\r\n])(?=[ \"\0\ufeff]*[=+@\uff0b\uff0d\uff1d\uff20-])"
)
"""Where text begins that a spreadsheet takes for a formula. To a spreadsheet whose separator is the semicolon
or the tab, a new cell begins behind one. Full width characters count as plain ones. A byte order mark at the
beginning of a file is no part of its first cell, and zero bytes are skipped."""

_AMBIGUOUS_FIRST = frozenset('"[{+-.0123456789TFNtfn' + _BLANKS)
"""First characters of cells that may be read as anything but their text."""


@contextmanager
def cells_of_any_length() -> Iterator[None]:
    """Let the module csv read cells of any length within: by itself it reads none above 131,072
    characters."""
    limit = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class CellWriter:
    """Writes the cells of the configs' columns. `learn` must have seen all rows before the first `cell`."""

    def __init__(self) -> None:
        self._mixed: set[str] = set()
        """Keys under which there are values other than text and null."""

    def learn(self, row: dict[str, Any]) -> None:
        """Note under which keys this row has values other than text and null."""
        mixed = self._mixed
        for key, value in row.items():
            if type(value) is not str and value is not None and key not in mixed:
                mixed.add(key)

    def cell(self, key: str, value: Any) -> Any:
        """`value` as the module csv is to write it."""
        if type(value) is str:
            is_plain = key not in self._mixed and reads_as_text(value)
            return value if is_plain else json.dumps(value)
        return "null" if value is None else plain_cell(value)


def finite(value: Any) -> Any:
    """`value` with null for floats that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def plain_cell(value: Any) -> Any:
    """A value in a column that is not read back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list, tuple)):
        try:
            return json.dumps(finite(value), default=str)
        except (TypeError, ValueError):  # it comes from a function of the user's, and may hold anything
            return str(value)
    return value


def safe_cell(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe stands before text that begins one.
    Numbers stay as they are."""
    return _FORMULA.sub("'", cell) if isinstance(cell, str) else cell


def reads_as_text(text: str) -> bool:
    """Whether a cell of this text, alone in its column, is read as this text."""
    if text and text[0] not in _AMBIGUOUS_FIRST:
        return True
    return bool(text) and json_of(text) is NOTHING and word_of(text) is NOTHING


def json_of(cell: str) -> Any:
    """The value of a cell that is JSON; NOTHING for any other."""
    try:
        return json.loads(cell, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def word_of(cell: str) -> Any:
    """The boolean, null or number as which pandas reads a cell; else NOTHING."""
    cell = cell.strip(_BLANKS)
    if cell in BOOLEANS:
        return BOOLEANS[cell]
    if cell in NULLS:
        return None
    if not _NUMBER.fullmatch(cell):
        return NOTHING
    try:
        return float(cell) if any(character in cell for character in ".eE") else int(cell)
    except ValueError:  # more digits than Python reads
        return NOTHING


def is_no_number(cell: str) -> bool:
    """Whether a cell is NaN or an infinity, which no config can hold."""
    return _NO_NUMBERS.fullmatch(cell.strip(_BLANKS)) is not None


def column_names(keys: Iterable[str], own: Collection[str], prefix: str = "config.") -> dict[str, str]:
    """Key -> column, for each of the `keys` of all configs of a table, in their order.

    A key with the name of one of our `own` columns gets `prefix` in front, as often as it takes to make a
    name that no other key has.
    """
    known = dict.fromkeys(keys)
    names = {}
    for key in known:
        column = key
        while column in own or (column != key and column in known):
            column = f"{prefix}{column}"
        names[key] = column
    return names


def keys_of_columns(columns: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Column -> key of the config: reverses `column_names`.

    A column ``config.<own>`` holds the key that has the name of one of our `own` columns. If there are also
    columns with more ``config.`` in front, the one with the most does.
    """
    named = list(columns)
    keys = {column: column for column in named}
    for name in own:
        column = f"config.{name}"
        if column in keys:
            while f"config.{column}" in keys:
                column = f"config.{column}"
            keys[column] = name
    return keys


def _refuse(constant: str) -> NoReturn:
    """Raise ValueError: NaN and Infinity are words of Python's, not of JSON's."""
    raise ValueError(constant)
