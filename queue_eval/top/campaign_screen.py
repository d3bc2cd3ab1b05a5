"""One campaign: its headline, and a table of running jobs, failures, all jobs or workers."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from queue_eval.foreign_text import one_line
from queue_eval.top import deeds
from queue_eval.top.failed_pane import FAILED
from queue_eval.top.headline import headline
from queue_eval.top.job_screen import JobScreen
from queue_eval.top.jobs_pane import JOBS
from queue_eval.top.looks import CampaignData, CampaignLook
from queue_eval.top.panes import Pane, Wish
from queue_eval.top.rows import Row
from queue_eval.top.running_pane import RUNNING
from queue_eval.top.table import Table
from queue_eval.top.view_screen import Deed, Lines, ViewScreen
from queue_eval.top.workers_pane import WORKERS
from queue_eval.transport.link import Link

PANES = {pane.name: pane for pane in (RUNNING, FAILED, JOBS, WORKERS)}

_TALL_ROWS = 30
"""A screen with so many rows has room for more groups of failures at its top."""

_MOST_JOBS = 5000
_MORE_JOBS = 200


class CampaignScreen(ViewScreen):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,right", "turn(1)", show=False),
        Binding("shift+tab,left", "turn(-1)", show=False),
        *(Binding(str(i), f"open_pane({name!r})", show=False) for i, name in enumerate(PANES, 1)),
        Binding("slash", "filter", show=False),
        Binding("s", "sort", show=False),
        Binding("g", "go_to_job", show=False),
        Binding("S", "stop", show=False),
        Binding("C", "cancel", show=False),
        Binding("R", "retry", show=False),
        Binding("P", "pause", show=False),
        Binding("D", "drain", show=False),
    ]
    look: CampaignLook
    keys = " Enter open  / filter  s sort  g job   S stop C cancel R retry P pause D drain   q quit"
    short_keys = "Enter open / filter s sort g job  S stop C cancel R retry P pause D drain q quit"

    def __init__(self, link: Link, campaign: str, *, key: str | None, direction: str) -> None:
        super().__init__()
        self.campaign = one_line(campaign)
        self._link = link
        self.look = CampaignLook(link, campaign, PANES, key=key, direction=direction)
        self.head = Lines(name="head")
        self.tabs = Lines(name="tabs")
        self.table = Table()
        self._data: CampaignData | None = None
        self._wishes = {name: Wish(pane=name, sort=pane.sorts[0]) for name, pane in PANES.items()}
        self._pane: Pane = RUNNING
        self.look.wish = self._wishes[RUNNING.name]

    def compose(self) -> ComposeResult:
        yield self.head
        yield self.tabs
        yield self.table
        yield from self.bottom()

    def on_mount(self) -> None:
        super().on_mount()
        self.head.show([Text(self.campaign, "bold"), Text("reading …", "dim")])
        self.table.focus()

    # Showing -------------------------------------------------------------------------------------------

    def show(self, data: CampaignData) -> None:
        self._data = data
        self._draw()

    def on_resize(self) -> None:
        keys = self.keys if self.size.width > len(self.keys) else self.short_keys
        self.key_line.show([Text(keys, "reverse")])
        self._draw()

    def _draw(self) -> None:
        data, width = self._data, self.size.width
        if data is None or not width:
            return
        groups = 1 + max(0, min(5, (self.size.height - _TALL_ROWS) // 3))
        self.head.show(headline(data.document, width, groups=groups))
        self.tabs.show([self._tab_line(data, width)])
        if data.wish.pane == self._pane.name:
            nothing = "nothing of that; / and Enter show all" if data.wish.words else self._pane.nothing
            self.table.show(self._pane.columns, data.rows, nothing)
            self._wish(seen=tuple(self.table.seen_keys))

    def _tab_line(self, data: CampaignData, width: int) -> Text:
        counts = data.document["counts"]
        numbers = {
            "running": counts["running"], "failed": counts["failed"], "jobs": sum(counts.values()),
            "workers": len(data.document["workers"]),
        }  # fmt: skip
        line = Text(no_wrap=True)
        for i, (name, pane) in enumerate(PANES.items(), 1):
            label = f" {i} {pane.title} {numbers[name]} "
            line.append(label, "bold reverse" if pane is self._pane else "").append(" ")
        wish = self._wishes[self._pane.name]
        told = f"sort: {wish.sort}" + (f" · only {one_line(wish.words)}" if wish.words else "")
        room = width - line.cell_len
        if room > 8:
            told_text = Text(told, "dim" if not wish.words else "yellow")
            told_text.truncate(room, overflow="ellipsis")
            line.append(" " * (room - told_text.cell_len)).append_text(told_text)
        return line

    def _wish(self, **changed: object) -> None:
        name = self._pane.name
        self._wishes[name] = replace(self._wishes[name], **changed)  # type: ignore[arg-type]
        self.look.wish = self._wishes[name]

    def on_table_moved(self, event: Table.Moved) -> None:
        event.stop()
        wish = self._wishes[self._pane.name]
        most = wish.most
        if self.table.is_near_end and self._data is not None and len(self._data.rows) >= most:
            most = min(_MOST_JOBS, most + _MORE_JOBS)
        seen = tuple(self.table.seen_keys)
        if (seen, most) != (wish.seen, wish.most):
            self._wish(seen=seen, most=most)
            if most != wish.most:
                self.top_app.server.hurry()

    # Keys ----------------------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        if event.key != "escape":
            self.forget_message()

    def forget_message(self) -> None:
        if not self._trouble:
            self.tell("")

    def action_turn(self, by: int) -> None:
        names = list(PANES)
        self.action_open_pane(names[(names.index(self._pane.name) + by) % len(names)])

    def action_open_pane(self, name: str) -> None:
        self._pane = PANES[name]
        self._wish()
        self.table.show(self._pane.columns, [], "reading …")
        self.table.focus()
        if self._data is not None:
            self.tabs.show([self._tab_line(self._data, self.size.width)])
        self.top_app.server.hurry()

    def action_sort(self) -> None:
        sorts = self._pane.sorts
        wish = self._wishes[self._pane.name]
        self._wish(sort=sorts[(sorts.index(wish.sort) + 1) % len(sorts)])
        self.top_app.server.hurry()

    def action_filter(self) -> None:
        def take(words: str) -> None:
            self._wish(words=words)
            self.top_app.server.hurry()

        hint = "only (a state, words):" if self._pane is JOBS else "only (words):"
        self.request.ask(hint, self._wishes[self._pane.name].words, take)

    def action_go_to_job(self) -> None:
        def take(number: str) -> None:
            if number:
                self.open_job(int(number))

        self.request.ask("job:", "", take, digits=True)

    def on_table_opened(self, event: Table.Opened) -> None:
        event.stop()
        if event.key.isdigit() and self._pane is not WORKERS:
            self.open_job(int(event.key))
        elif self._pane is FAILED and (group := self._chosen_group()) is not None:
            self._open_newest(group)
        elif self._pane is WORKERS:
            self._wishes[JOBS.name] = replace(self._wishes[JOBS.name], words=f"running {event.key}")
            self.action_open_pane(JOBS.name)

    def _open_newest(self, group: Row) -> None:
        """Open the newest job of a group: its row follows that of the group."""
        rows = self._data.rows if self._data is not None else []
        following = rows[rows.index(group) + 1 :]
        if following and following[0].key.isdigit():
            self.open_job(int(following[0].key))

    def open_job(self, job: int) -> None:
        self.app.push_screen(JobScreen(self, job))

    def action_stop(self) -> None:
        all_running = deeds.stop(self.look)
        if (job := self._chosen_job()) is not None:
            self.choose(
                "Ask to stop early?", ("j", f"job {job}", deeds.stop(self.look, [job])),
                ("a", "all that run", all_running),
            )  # fmt: skip
        else:
            self.confirm("Ask all running jobs to stop early?", all_running)

    def action_cancel(self) -> None:
        outstanding = self._count("scheduled") + self._count("pending") + self._count("running")
        everything = ("a", f"all {outstanding} that are not finished", deeds.cancel(self.look))
        if (job := self._chosen_job()) is not None:
            self.choose("Cancel?", ("j", f"job {job}", deeds.cancel(self.look, [job])), everything)
        else:
            self.choose("Cancel?", everything)

    def action_retry(self) -> None:
        choices: list[tuple[str, str, Deed]] = []
        if (job := self._chosen_job()) is not None and self._pane is not RUNNING:
            choices.append(("j", f"job {job}", deeds.retry(self.look, [job])))
        if self._pane is FAILED and (group := self._chosen_group()) is not None:
            count, title = map(str, group.cells[:2])
            choices.append(("g", f"its group of {count}", deeds.retry_group(self.look, title)))
        if failed := self._count("failed"):
            choices.append(("a", f"all {failed} that failed", deeds.retry_all(self.look)))
        if choices:
            self.choose("Run again?", *choices)
        else:
            self.tell("nothing has failed")

    def action_pause(self) -> None:
        is_paused = self._data is not None and bool(self._data.document["paused"])
        if is_paused:
            self.confirm("Let the campaign go on?", deeds.pause(self.look, paused=False))
        else:
            question = "Pause the campaign? What runs is finished, and no more is started."
            self.confirm(question, deeds.pause(self.look, paused=True))

    def action_drain(self) -> None:
        if self._pane is not WORKERS or (worker := self.table.chosen) is None:
            self.action_open_pane(WORKERS.name)
            self.tell("choose the worker that is to drain, then press D again")
            return
        question = f"Drain worker {worker}? It finishes what it runs, then ends."
        self.confirm(question, deeds.drain(self._link, worker))

    # ---------------------------------------------------------------------------------------------------

    def _chosen_job(self) -> int | None:
        key = self.table.chosen
        return int(key) if key and key.isdigit() and self._pane is not WORKERS else None

    def _chosen_group(self) -> Row | None:
        """The first row of the group of failures that the chosen row belongs to."""
        found = None
        for row in self._data.rows if self._data is not None else ():
            if row.key.startswith("group ") and not row.key.endswith(" more"):
                found = row
            if row.key == self.table.chosen:
                return found
        return None

    def _count(self, state: str) -> int:
        return 0 if self._data is None else int(self._data.document["counts"][state])
