"""Fits rows of text into columns, and these into the width of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from queue_eval.foreign_text import one_line

Cell = str | Text | Callable[[int], str | Text]
"""Text, or what makes it for a width."""

_GAP = 2


@dataclass(frozen=True)
class Column:
    """`least`, `most`: characters. A column that `grows` takes its part of what is left."""

    title: str
    least: int = 4
    most: int = 24
    is_right: bool = False
    grows: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table. `key`: what it is about."""

    key: str
    cells: tuple[Cell, ...]
    style: str = ""

    @property
    def plain(self) -> str:
        """Its text, as a filter sees it."""
        return " ".join(str(cell) for cell in self.cells if not callable(cell))


def fit(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """The width of each column; 0 for those that have no room."""
    widths = [_natural(column, rows, i) for i, column in enumerate(columns)]
    shown = len(columns)
    while shown > 1 and _total([c.least for c in columns[:shown]]) > width:
        shown -= 1
    widths = widths[:shown]
    while (excess := _total(widths) - width) > 0:
        slack = [w - c.least for w, c in zip(widths, columns, strict=False)]
        widest = max(range(shown), key=lambda i: slack[i])
        if slack[widest] <= 0:
            widths[-1] = max(0, widths[-1] - excess)
            break
        widths[widest] -= min(excess, max(1, slack[widest] // 2))
    growing = [i for i in range(shown) if columns[i].grows]
    for i in growing:
        left = width - _total(widths)
        if left > 0:
            widths[i] += left if i == growing[-1] else left // 2
    return widths + [0] * (len(columns) - shown)


def drawn(columns: Sequence[Column], widths: Sequence[int], row: Row | None) -> Text:
    """One line; None: the titles."""
    cells: Sequence[Cell] = [column.title for column in columns] if row is None else row.cells
    line = Text(no_wrap=True, end="")
    for column, width, cell in zip(columns, widths, cells, strict=True):
        if width <= 0:
            continue
        text = _text(cell(width) if callable(cell) else cell)
        text.truncate(width, overflow="ellipsis")
        blank = " " * (width - text.cell_len)
        if line.plain:
            line.append(" " * _GAP)
        if column.is_right:
            line.append(blank).append_text(text)
        else:
            line.append_text(text).append(blank)
    line.stylize_before("bold" if row is None else row.style)
    return line


def _natural(column: Column, rows: Sequence[Row], i: int) -> int:
    cells = [row.cells[i] for row in rows]
    if any(callable(cell) for cell in cells):
        return column.most
    longest = max((_text(cell).cell_len for cell in cells if not callable(cell)), default=0)
    return max(column.least, len(column.title), min(column.most, longest))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def safe(text: Text) -> Text:
    """`text`, if a terminal would obey nothing in it; else what it holds without its styles."""
    return text if text.plain.isprintable() else Text(one_line(text.plain), text.style, end=text.end)


def _text(cell: str | Text) -> Text:
    """Printable, and no markup."""
    return safe(cell).copy() if isinstance(cell, Text) else Text(one_line(cell))
