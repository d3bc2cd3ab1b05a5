"""The bottom line asks: yes or no, one of several, or a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from queue_eval.foreign_text import one_line


class Question(ModalScreen[str | None]):
    """Gives the key that was chosen; None for any other key. `choices`: (key, what it does)."""

    DEFAULT_CSS = """
    Question { background: transparent; align: left bottom; }
    Question Static {
        height: auto; max-height: 4; margin-bottom: 1; background: ansi_yellow; color: ansi_black;
    }
    """

    def __init__(self, question: str, choices: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = [key for key, _ in choices]
        options = "   ".join(f"{key} {what}" for key, what in choices)
        self._line = Text(one_line(f"{question}")).append(f"   {options}   Esc no")

    def compose(self) -> ComposeResult:
        yield Static(self._line, markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(event.character if event.character in self._keys else None)


class Request(ModalScreen[str | None]):
    """Gives the text that was typed; None when Escape was pressed."""

    DEFAULT_CSS = """
    Request { background: transparent; align: left bottom; }
    Request Horizontal { height: 1; margin-bottom: 1; background: ansi_default; }
    Request Static { width: auto; margin-right: 1; text-style: bold; }
    Request Input { width: 1fr; border: none; height: 1; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", show=False)]

    def __init__(self, label: str, value: str = "", *, digits: bool = False) -> None:
        super().__init__()
        self._label = label
        self._input = Input(value, compact=True, restrict=r"\d{0,9}" if digits else None)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Static(self._label, markup=False)
            yield self._input

    def on_mount(self) -> None:
        self._input.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value)

    def action_give_up(self) -> None:
        self.dismiss(None)
