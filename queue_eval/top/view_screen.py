"""What all screens of the live view have: one look, a line for messages, a line of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static

from queue_eval.foreign_text import one_line
from queue_eval.top.prompts import Question, Request
from queue_eval.top.rows import safe
from queue_eval.top.server_thread import Look

Deed = Callable[[], str]
"""Done in the server's thread; gives the sentence that tells what came of it."""

if TYPE_CHECKING:
    from queue_eval.top.app import TopApp


class Lines(Static):
    """Lines of text; drawn anew only when they differ."""

    def __init__(self, *, name: str) -> None:
        super().__init__("", markup=False, id=name)
        self._shown = Text()
        self._count = -1

    def show(self, lines: list[Text]) -> None:
        text = Text("\n", no_wrap=True).join(map(safe, lines))
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
        self.question = Question()
        self.request = Request()
        self.key_line = Lines(name="keys")
        self._trouble = ""

    @property
    def top_app(self) -> TopApp:
        return cast("TopApp", self.app)

    def bottom(self) -> ComposeResult:
        """What stands below all else."""
        yield self.message
        yield self.question
        yield self.request
        yield self.key_line

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

    def confirm(self, question: str, deed: Deed) -> None:
        """Ask, then do it."""
        self.choose(question, ("y", "yes", deed))

    def choose(self, question: str, *choices: tuple[str, str, Deed]) -> None:
        """Ask which of these (key, what it does, deed) is to be done, if any, and do it."""

        def take(key: str | None) -> None:
            deed = next((deed for letter, _, deed in choices if letter == key), None)
            self.tell("nothing was changed" if deed is None else "doing it …", "dim")
            if deed is not None:
                self.top_app.server.perform(deed)

        self.tell("")
        self.question.ask(question, [(key, what) for key, what, _ in choices], take)

    def action_back(self) -> None:
        self.top_app.server.leave(self.look)
        self.top_app.pop_screen()
