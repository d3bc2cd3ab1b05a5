"""The list of campaigns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from queue_eval.top.headline import bar, state_of
from queue_eval.top.looks import CampaignsLook
from queue_eval.top.rows import Column, Row
from queue_eval.top.table import Table
from queue_eval.top.view_screen import Lines, ViewScreen
from queue_eval.transport.link import Link
from queue_eval.views.formats import shown_time

COLUMNS = (
    Column("CAMPAIGN", least=12, most=60),
    Column("STATE", least=8, most=24),
    Column("PROGRESS", least=10, most=20, grows=True),
    Column("DONE", least=9, most=17, is_right=True),
    Column("FAILED", least=6, most=9, is_right=True),
    Column("CREATED", least=19, most=19),
)


class CampaignsScreen(ViewScreen):
    """Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.quit", show=False)]
    keys = " Enter open   ↑↓ choose   q quit "

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.look = CampaignsLook(link)
        self.head = Lines(name="head")
        self.table = Table()

    def compose(self) -> ComposeResult:
        yield self.head
        yield self.table
        yield from self.bottom()

    def show(self, data: list[dict[str, Any]]) -> None:
        self.head.show([Text(f"{len(data)} campaign{'' if len(data) == 1 else 's'}", "bold")])
        # The newest first: it is what people look for.
        self.table.show(COLUMNS, [_row(one) for one in reversed(data)], "there is no campaign on this server")

    def on_table_opened(self, event: Table.Opened) -> None:
        event.stop()
        self.top_app.open_campaign(event.key)


def _row(one: Mapping[str, Any]) -> Row:
    counts, planned = one["counts"], one["planned"]
    words, style = state_of({"reasons": [], **one})
    done = sum(counts[name] for name in ("succeeded", "failed", "cancelled"))
    failed = counts["failed"]
    return Row(
        one["campaign"],
        (
            one["campaign"], Text(re.split("[,;:]", words)[0], style),
            lambda width: bar(counts, planned, width), f"{done}/{planned}",
            Text(str(failed), "red" if failed else "dim"), shown_time(one["created_ms"]),
        ),
    )  # fmt: skip
