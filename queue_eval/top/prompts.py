"""What the bottom of a screen asks for: a choice by one key, or a text. The screen stays in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Static

from queue_eval.foreign_text import one_line


class Question(Static, can_focus=True):
    """Hidden until it is asked. Any key that is no choice means no."""

    DEFAULT_CSS = """
    Question { display: none; height: auto; max-height: 4; background: ansi_yellow; color: ansi_black; }
    """

    def __init__(self) -> None:
        super().__init__("", markup=False)
        self._keys: list[str] = []
        self._take: Callable[[str | None], object] = lambda _: None
        self._before: Widget | None = None

    def ask(
        self, question: str, choices: Sequence[tuple[str, str]], take: Callable[[str | None], object]
    ) -> None:
        """Have `take` called with the chosen key, or None. `choices`: (key, what it does)."""
        self._keys, self._take, self._before = [key for key, _ in choices], take, self.screen.focused
        line = Text(one_line(question))
        for key, what in [*choices, ("Esc", "no")]:
            line.append("  ").append(f" {key} ", "reverse").append(f" {one_line(what)}")
        self.update(line)
        self.display = True
        self.focus()

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        self._end(event.character if event.character in self._keys else None)

    def on_blur(self) -> None:
        if self.display:
            self._end(None)

    def _end(self, chosen: str | None) -> None:
        self.display = False
        if self._before is not None:
            self._before.focus()
        self._take(chosen)


class Request(Horizontal):
    """Hidden until it is asked."""

    DEFAULT_CSS = """
    Request { display: none; height: 1; }
    Request Static { width: auto; margin-right: 1; text-style: bold; }
    Request Input { width: 1fr; height: 1; border: none; padding: 0; background: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", show=False)]

    def __init__(self) -> None:
        super().__init__()
        self._label = Static("", markup=False)
        self._input = Input(compact=True)
        self._take: Callable[[str], object] = lambda _: None
        self._before: Widget | None = None

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._input

    def ask(self, label: str, value: str, take: Callable[[str], object], *, digits: bool = False) -> None:
        """Have `take` called with what is typed, unless Escape is pressed."""
        self._take, self._before = take, self.screen.focused
        self._label.update(label)
        self._input.restrict = r"\d{0,9}" if digits else None
        self._input.value = value
        self.display = True
        self._input.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._end()
        self._take(event.value)

    def action_give_up(self) -> None:
        self._end()

    def _end(self) -> None:
        self.display = False
        if self._before is not None:
            self._before.focus()
