"""The documents of one campaign, as browsers are sent them: one look serves all who look."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.errors import QueueEvalError
from queue_eval.views import panels
from queue_eval.views.curves import Curves
from queue_eval.views.numbers import main_key
from queue_eval.views.standing import Standing, StandingReader
from queue_eval.views.strips import strips
from queue_eval.views.summary import MOST_BEST
from queue_eval.web.job_page import JobPages
from queue_eval.web.pushed import to_json
from queue_eval.web.topics import Topic

_FRESH_S = 10
"""When a worker was last seen is told anew only so often, if nothing else is new."""


class CampaignDocuments:
    """Assumes: one thread at a time. All methods read the server, and raise what `CampaignCommands` raise."""

    def __init__(self, queue: CampaignCommands) -> None:
        self.queue = queue
        self._reader = StandingReader(queue)
        self._curves: dict[Topic, Curves] = {}
        self._jobs = JobPages(queue)
        self._standing: Standing | None = None

    @property
    def standing(self) -> Standing:
        """The campaign at the last look."""
        assert self._standing is not None, "nobody has looked yet"
        return self._standing

    def look(self, budget_s: float) -> bool:
        """Look at the campaign; read results for about so long. Returns whether all of them are known."""
        self._standing = self._reader.read(budget_s)
        return self._standing.overview.read_share >= 1

    def of(self, topic: Topic) -> Any:
        """The document of a topic, as of the last look; None where there is no such job."""
        standing = self.standing
        overview, snapshot, summary = standing.overview, standing.snapshot, standing.overview.summary
        if topic.kind == "overview":
            best = self._reader.best(overview, topic.key, topic.direction)
            return panels.overview(replace(standing, best=best))
        if topic.kind == "course":
            depth = panels.depths(self.queue, snapshot, summary)
            return panels.course(summary, topic.key, topic.direction) | {"depth": depth}
        if topic.kind == "sample":
            return panels.sample(self.queue, summary, topic.key, topic.direction)
        if topic.kind == "slots":
            return strips(self.queue, snapshot, self._reader.reader.spans())
        if topic.kind == "job":
            return self._jobs.read(topic.ids[0], topic.name, standing)
        curves = self._curves.setdefault(topic, Curves(self.queue))
        ids = topic.ids or curves.chosen(snapshot, summary, main_key(summary.keys), topic.direction)
        return curves.read(snapshot, ids, topic.name)

    def best_of(self, direction: str) -> list[int]:
        """The best jobs by what `objective` names in a table, as far as they are known."""
        summary = self.standing.overview.summary
        return [job for job, _ in summary.best(main_key(summary.keys) or "", MOST_BEST, direction)]

    def failed_of(self, line: str) -> list[int]:
        """The jobs in the failure groups of this line. Raises QueueEvalError while results are unread."""
        if self.standing.overview.read_share < 1:
            raise QueueEvalError("the results are still being read; try again when all of them are known")
        return self.standing.overview.summary.failed_of(line)

    def keep_only(self, topics: Collection[Topic]) -> None:
        """Forget what was read for other topics."""
        self._curves = {topic: curves for topic, curves in self._curves.items() if topic in topics}
        self._jobs.keep_only({topic.ids[0] for topic in topics if topic.kind == "job"})

    def close(self) -> None:
        """Keep what was read for the next viewer."""
        self._reader.close()


def compared(topic: Topic, document: Any) -> str | None:
    """What decides whether a document is another one than before: without the clock, which always changes."""
    if topic.kind == "overview":
        calm = [worker | {"last_seen_s": None} for worker in document["workers"]]
        minute = document["now_ms"] // (_FRESH_S * 1000) if document["workers"] else 0
        return to_json(document | {"now_ms": minute, "workers": calm})
    if topic.kind == "slots":
        return to_json(document | {"to_ms": None})
    return None
