"""The live view: a stack of screens, and the thread that reads for the one on top."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from queue_eval.errors import CampaignNotFoundError
from queue_eval.top.campaign_screen import CampaignScreen
from queue_eval.top.campaigns_screen import CampaignsScreen
from queue_eval.top.server_thread import Away, Crashed, Event, Looked, Performed, ServerThread, Troubled
from queue_eval.top.view_screen import ViewScreen

_THEMES = ("ansi-dark", "textual-ansi")
"""The colours of the terminal, by the newer and the older name."""

_SILENT_S = 4.0
"""A server that takes longer for an answer is said to be silent."""


class FromServer(Message):
    """The server's thread has something to say."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class TopApp(App[None]):
    """`campaign`: the one to open at once."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    CSS = """
    Screen { layout: vertical; background: ansi_default; color: ansi_default; }
    #head, #tabs { height: auto; }
    #message { height: auto; max-height: 3; }
    #keys { height: 1; }
    """

    def __init__(
        self, server: ServerThread, campaign: str | None = None, *, key: str | None = None,
        direction: str = "max",
    ) -> None:  # fmt: skip
        super().__init__(ansi_color=True)
        self.theme = next(name for name in _THEMES if name in self.available_themes)
        self.animation_level = "none"
        self.server = server
        self.crash: Exception | None = None
        """What has ended the view."""
        self._campaign = campaign
        self._key = key
        self._direction = direction

    def on_mount(self) -> None:
        self.server.post = self._post
        self.push_screen(CampaignsScreen(self.server.link))
        if self._campaign is not None:
            self.open_campaign(self._campaign)
        self.set_interval(1.0, self._look_at_thread)
        self.server.start()

    def open_campaign(self, campaign: str) -> None:
        self.push_screen(
            CampaignScreen(self.server.link, campaign, key=self._key, direction=self._direction)
        )

    def _post(self, event: Event) -> None:
        self.post_message(FromServer(event))

    def on_from_server(self, message: FromServer) -> None:
        match message.event:
            case Looked(look, data):
                for screen in self._views():
                    if screen.look is look:
                        screen.forget_trouble()
                        screen.show(data)
            case Performed(sentence):
                self._views()[-1].tell(sentence)
            case Away(seconds):
                self._tell_away(seconds)
            case Crashed(error):
                self._end_with(error)
            case Troubled(look, error):
                self._take_trouble(look, error)

    def _handle_exception(self, error: Exception) -> None:
        """Textual's own prints a traceback."""
        if self.is_headless:
            super()._handle_exception(error)  # a test is to fail
        else:
            self._end_with(error)

    def _end_with(self, error: Exception) -> None:
        self.crash = self.crash or error
        self.exit(return_code=1)

    def _look_at_thread(self) -> None:
        """A server that hangs is not known to be away before a reply is late."""
        if (busy_s := self.server.busy_s) > _SILENT_S:
            self._tell_away(busy_s)

    def _tell_away(self, seconds: float) -> None:
        told = f"no answer from the server for {seconds:.0f} s; this goes on when it answers"
        self._views()[-1].tell_trouble(told)

    def _take_trouble(self, look: Any, error: Exception) -> None:
        top = self._views()[-1]
        if isinstance(error, CampaignNotFoundError) and look is top.look and len(self._views()) > 1:
            top.action_back()
            self._views()[-1].tell(str(error))
        elif look is None:
            top.tell(str(error), "bold red")
        else:
            top.tell_trouble(str(error))

    def _views(self) -> list[ViewScreen]:
        """The screens but for questions, the top one last."""
        return [screen for screen in self.screen_stack if isinstance(screen, ViewScreen)]


def show(server: ServerThread, campaign: str | None, *, key: str | None, direction: str) -> None:
    """Run the live view until the user quits it. Raises what has ended it otherwise."""
    app = TopApp(server, campaign, key=key, direction=direction)
    try:
        app.run()
    finally:
        server.close()
    if app.crash is not None:
        raise app.crash
