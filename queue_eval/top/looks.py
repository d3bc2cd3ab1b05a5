"""What the screens read, in the server's thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.foreign_text import one_line
from queue_eval.top.job_page import JobPage, read_page
from queue_eval.top.panes import Pane, Source, Wish
from queue_eval.top.report_curves import ReportCurves
from queue_eval.top.rows import Row
from queue_eval.transport.link import Link
from queue_eval.views import panels
from queue_eval.views.campaign_list import every_campaign
from queue_eval.views.standing import Standing, StandingReader


class CampaignsLook:
    """All campaigns of the server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def read(self) -> list[dict[str, Any]]:
        return [
            {
                "campaign": name, "paused": snapshot.paused, "planned": snapshot.planned,
                "created_ms": int(meta["created_ms"]),
                "counts": {state.value: count for state, count in snapshot.counts.items()},
            }
            for name, meta, snapshot, _ in every_campaign(self._link, lambda *_: None)
        ]  # fmt: skip

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class CampaignData:
    """A campaign's screen at one moment."""

    document: dict[str, Any]
    wish: Wish
    rows: list[Row]


class CampaignLook:
    """One campaign, with the rows of the pane that its screen wishes to see."""

    def __init__(
        self, link: Link, campaign: str, panes: dict[str, Pane], *, key: str | None, direction: str
    ) -> None:
        self.wish = Wish()
        """Replaced by the screen."""
        self._link = link
        self._campaign = campaign
        self._panes = panes
        self._key = key
        self._direction = direction
        self._source: Source | None = None
        self._reader: StandingReader | None = None
        self._standing: Standing | None = None

    def read(self) -> CampaignData:
        wish, source = self.wish, self.source()
        if self._reader is None:
            self._reader = StandingReader(source.queue, key=self._key, direction=self._direction)
        self._standing = self._reader.read()
        rows = self._panes[wish.pane].rows(source, self._standing, wish)
        return CampaignData(_document(self._standing), wish, rows)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def source(self) -> Source:
        """In the server's thread."""
        if self._source is None:
            queue = CampaignCommands.attach(self._link, self._campaign)[0]
            self._source = Source(queue, self._key, self._direction)
        return self._source

    def failed_of(self, title: str) -> list[int]:
        """The jobs of the group of failures with this title, in one line. In the server's thread."""
        if self._standing is None:
            return []
        summary = self._standing.overview.summary
        titles = {group.title for group in summary.groups.groups if one_line(group.title) == title}
        return [job for one in titles for job in summary.failed_of(one)]


def _document(standing: Standing) -> dict[str, Any]:
    """A campaign as a whole: plain data, which no later look changes."""
    busy = {worker.card.name: worker.card.busy for worker in standing.live}
    return panels.overview(standing) | {
        "reasons": [reason.as_json() for reason in standing.troubles],
        "workers": [row | {"busy": busy.get(row["name"])} for row in standing.workers],
    }


class JobLook:
    """One job of a campaign."""

    def __init__(self, campaign: CampaignLook, job: int) -> None:
        self._campaign = campaign
        self._job = job
        self._readers: tuple[ExecutionReader, ReportCurves] | None = None

    def read(self) -> JobPage:
        source = self._campaign.source()
        if self._readers is None:
            self._readers = ExecutionReader(source.queue), ReportCurves(source.queue)
        return read_page(source, *self._readers, self._job)

    def close(self) -> None:
        pass
