"""What all screens of the live view have: one look, a line for messages, a line of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static

from queue_eval.foreign_text import one_line
from queue_eval.top.server_thread import Look

if TYPE_CHECKING:
    from queue_eval.top.app import TopApp


class Lines(Static):
    """Lines of text; drawn anew only when they differ."""

    def __init__(self, *, name: str) -> None:
        super().__init__("", markup=False, id=name)
        self._shown = Text()
        self._count = -1

    def show(self, lines: list[Text]) -> None:
        text = Text("\n", no_wrap=True).join(lines)
        if text != self._shown or text.spans != self._shown.spans:
            self._shown = text
            self.update(text, layout=len(lines) != self._count)
            self._count = len(lines)

    @property
    def plain(self) -> str:
        return self._shown.plain


class ViewScreen(Screen[None]):
    """`look` is read while the screen is on top."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", show=False),
        Binding("q", "app.quit", show=False),
    ]
    look: Look
    keys: str

    def __init__(self) -> None:
        super().__init__()
        self.message = Lines(name="message")
        self.key_line = Lines(name="keys")
        self._trouble = ""

    @property
    def top_app(self) -> TopApp:
        return cast("TopApp", self.app)

    def on_mount(self) -> None:
        self.key_line.show([Text(self.keys, "reverse", no_wrap=True)])

    def on_screen_resume(self) -> None:
        self.top_app.server.watch(self.look)

    def show(self, data: Any) -> None:
        """The look has been read."""
        raise NotImplementedError

    def tell(self, sentence: str, style: str = "bold") -> None:
        """Show one sentence until there is another, or a key is pressed."""
        self._trouble = ""
        self.message.show([Text(one_line(sentence), style)] if sentence else [])

    def tell_trouble(self, sentence: str) -> None:
        """Show it until the next look succeeds."""
        if sentence != self._trouble:
            self.tell(sentence, "bold yellow")
            self._trouble = sentence

    def forget_trouble(self) -> None:
        if self._trouble:
            self.tell("")

    def action_back(self) -> None:
        self.top_app.server.leave(self.look)
        self.top_app.pop_screen()
