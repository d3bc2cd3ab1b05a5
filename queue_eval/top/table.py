"""A table of which one row is chosen: only what is on the screen is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from queue_eval.top.rows import Column, Row, drawn, fit

_WHEEL_ROWS = 3


class Table(Widget, can_focus=True):
    """Keeps the chosen row by its key when rows come and go."""

    DEFAULT_CSS = "Table { height: 1fr; min-height: 2; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "first", show=False),
        Binding("end", "last", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """Enter was pressed on a row, or it was clicked twice."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class Moved(Message):
        """Other rows are on the screen now, or the end is near."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: Sequence[Column] = ()
        self._rows: Sequence[Row] = ()
        self._nothing = ""
        self._chosen = 0
        self._top = 0

    def show(self, columns: Sequence[Column], rows: Sequence[Row], nothing: str) -> None:
        """Show these rows; `nothing`: the sentence that stands there without any."""
        key = self.chosen
        if columns != self._columns:
            self._chosen = self._top = 0
        elif key is not None:
            at = next((i for i, row in enumerate(rows) if row.key == key), None)
            self._chosen = self._chosen if at is None else at
        self._columns, self._rows, self._nothing = columns, rows, nothing
        self._keep_in_sight()
        self.refresh()

    @property
    def chosen(self) -> str | None:
        """The key of the chosen row."""
        return self._rows[self._chosen].key if self._chosen < len(self._rows) else None

    @property
    def seen_keys(self) -> list[str]:
        """The keys of the rows on the screen."""
        return [row.key for row in self._rows[self._top : self._top + self._height]]

    @property
    def is_near_end(self) -> bool:
        return self._top + 2 * self._height >= len(self._rows)

    def render(self) -> Text:
        if not self._rows:
            return Text(self._nothing, "dim")
        seen = self._rows[self._top : self._top + self._height]
        widths = fit(self._columns, seen, self.size.width)
        lines = [drawn(self._columns, widths, None)]
        for i, row in enumerate(seen, self._top):
            line = drawn(self._columns, widths, row)
            # Without its colours: some are hard to read in reverse.
            lines.append(Text(line.plain, "reverse") if i == self._chosen else line)
        return Text("\n", no_wrap=True).join(lines)

    def on_resize(self) -> None:
        self._keep_in_sight()
        self.post_message(self.Moved())

    def on_click(self, event: events.Click) -> None:
        at = self._top + event.y - 1
        if event.y >= 1 and at < len(self._rows):
            self._go(at)
            if event.chain == 2:
                self.action_open()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(_WHEEL_ROWS)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-_WHEEL_ROWS)

    def action_move(self, by: int) -> None:
        self._go(self._chosen + by)

    def action_page(self, by: int) -> None:
        self._go(self._chosen + by * self._height)

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._rows) - 1)

    def action_open(self) -> None:
        if (key := self.chosen) is not None:
            self.post_message(self.Opened(key))

    @property
    def _height(self) -> int:
        return max(1, self.size.height - 1)

    def _go(self, at: int) -> None:
        self._chosen = at
        top = self._top
        self._keep_in_sight()
        self.refresh()
        if self._top != top or self.is_near_end:
            self.post_message(self.Moved())

    def _keep_in_sight(self) -> None:
        self._chosen = max(0, min(self._chosen, len(self._rows) - 1))
        last_top = max(0, len(self._rows) - self._height)
        self._top = max(self._chosen - self._height + 1, min(self._top, self._chosen, last_top), 0)
