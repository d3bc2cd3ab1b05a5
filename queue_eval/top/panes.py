"""What the tables of a campaign's screen hold: running jobs, failures, all jobs, workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.top.report_curves import ReportCurves
from queue_eval.top.rows import Column, Row
from queue_eval.views.records import JobRecord, JobRecordReader
from queue_eval.views.standing import Standing


@dataclass(frozen=True)
class Wish:
    """What the screen wants to see."""

    pane: str = "running"
    seen: tuple[str, ...] = ()
    """The keys of the rows on the screen."""
    sort: str = ""
    """One of the pane's `sorts`."""
    words: str = ""
    """Only rows that have all these words."""
    most: int = 100
    """So many rows, where there may be as many as jobs."""


class Source:
    """What the panes read from, kept from one look to the next."""

    def __init__(self, queue: CampaignCommands, key: str | None, direction: str) -> None:
        self.queue = queue
        self.key = key
        self.direction = direction
        self.curves = ReportCurves(queue)
        self.records = JobRecordReader(queue)
        self.failed: dict[int, JobRecord] = {}
        self.cache: dict[str, tuple[object, list[Row]]] = {}
        """Pane -> what its rows depend on, and the rows."""


@dataclass(frozen=True)
class Pane:
    """`rows` is called in the server's thread."""

    name: str
    title: str
    columns: tuple[Column, ...]
    sorts: tuple[str, ...]
    nothing: str
    rows: Callable[[Source, Standing, Wish], list[Row]]


def with_words(rows: Sequence[Row], words: str) -> list[Row]:
    """Those rows that have all the words, in any case."""
    wanted = words.lower().split()
    return [row for row in rows if all(word in row.plain.lower() for word in wanted)]
