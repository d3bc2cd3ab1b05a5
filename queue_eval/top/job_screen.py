"""One job whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from queue_eval.model.states import State
from queue_eval.top import deeds
from queue_eval.top.job_page import JobPage, lines_of
from queue_eval.top.looks import JobLook
from queue_eval.top.view_screen import Lines, ViewScreen

if TYPE_CHECKING:
    from queue_eval.top.campaign_screen import CampaignScreen


class JobScreen(ViewScreen):
    """Scrolls; Escape leads back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("S", "stop", show=False),
        Binding("C", "cancel", show=False),
        Binding("R", "retry", show=False),
    ]
    keys = " Esc back   ↑↓ scroll   S stop early   C cancel   R retry   q quit "
    DEFAULT_CSS = "JobScreen VerticalScroll { height: 1fr; } JobScreen #page { height: auto; }"

    def __init__(self, campaign: CampaignScreen, job: int) -> None:
        super().__init__()
        self._campaign = campaign
        self._job = job
        self.look = JobLook(campaign.look, job)
        self.head = Lines(name="head")
        self.page = Lines(name="page")
        self._shown: JobPage | None = None

    def compose(self) -> ComposeResult:
        yield self.head
        with VerticalScroll():
            yield self.page
        yield from self.bottom()

    def on_mount(self) -> None:
        super().on_mount()
        self.head.show([Text.assemble((f"job {self._job}", "bold"), "  of ", self._campaign.campaign)])

    def show(self, data: JobPage) -> None:
        self._shown = data
        self.page.show(lines_of(data, self.size.width - 2))

    def on_resize(self) -> None:
        if self._shown is not None:
            self.show(self._shown)

    def action_stop(self) -> None:
        self.confirm(
            f"Ask job {self._job} to stop early?", deeds.stop(self._campaign.look, [self._job])
        )

    def action_cancel(self) -> None:
        self.confirm(f"Cancel job {self._job}?", deeds.cancel(self._campaign.look, [self._job]))

    def action_retry(self) -> None:
        if self._shown is not None and self._shown.record.state not in (State.FAILED, State.CANCELLED):
            self.tell(f"job {self._job} has neither failed nor been cancelled")
            return
        self.confirm(f"Run job {self._job} again?", deeds.retry(self._campaign.look, [self._job]))
