"""How a campaign stands: all that `status` shows, and that other views show of a campaign as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.expiry import EXPIRE_AFTER_S, FIELDS, closed_ms_of
from queue_eval.campaign.gone import campaign_gone
from queue_eval.campaign.meta import created_ms_of, label_of, text_of
from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.model.codec import decode
from queue_eval.model.moves import Snapshot
from queue_eval.views.explaining import Explainer, Found
from queue_eval.views.formats import iso
from queue_eval.views.numbers import WHOLE, main_key
from queue_eval.views.pace import Pace, newest_times_ms
from queue_eval.views.reader import LOOK_S, CampaignReader, Overview
from queue_eval.views.reasons import Kind, Reason

_META = ("function", "method", "queue", "created_ms", "resting", "most_running", *FIELDS)
_WELL = (Kind.GOES_ON, Kind.FINISHED, Kind.EMPTY)


@dataclass(frozen=True)
class Best:
    """The best job that is known."""

    job: int
    key: str
    """The name of the number in its result (`views.numbers`)."""
    value: float
    config: Any

    def as_json(self) -> dict[str, Any]:
        return {"id": self.job, "key": self.key or None, "value": self.value, "config": self.config}


@dataclass(frozen=True)
class Standing:
    """One look at a campaign."""

    campaign: str
    meta: Mapping[str, bytes]
    overview: Overview
    pace: Pace
    live: list[LiveWorker]
    """All live workers of the server."""
    workers: list[dict[str, Any]]
    """Those of the campaign, and dead ones that hold jobs of it."""
    unserved: str | None
    """Why nobody serves it, and what to start; None while somebody does, or need not."""
    reasons: list[Reason]
    """Why its jobs wait, the most important reason first; or that it goes on, or is finished."""
    best: Best | None

    @property
    def snapshot(self) -> Snapshot:
        return self.overview.snapshot

    @property
    def troubles(self) -> list[Reason]:
        """The reasons that keep jobs waiting."""
        return [reason for reason in self.reasons if reason.kind not in _WELL]

    def as_json(self) -> dict[str, Any]:
        summary = self.overview.summary
        return described(self.campaign, self.meta, self.snapshot) | {
            "workers": self.workers,
            "rate_per_s": self.pace.rate_per_s,
            "time_left_s": self.pace.time_left_s,
            "time_left_is_guess": self.pace.is_guess,
            "unserved": self.unserved,
            "reasons": [reason.as_json() for reason in self.reasons],
            "best": None if self.best is None else self.best.as_json(),
            "failures": [
                {"line": g.title, "cause": g.cause or None, "count": g.count, "newest": g.newest,
                 "first_at": iso(g.first_ms), "last_at": iso(g.last_ms)}
                for g in summary.groups.ranked()
            ],
            "read_share": round(self.overview.read_share, 4),
        }  # fmt: skip


class StandingReader:
    """Reads how a campaign stands, again and again; what a look costs depends on what is new.

    `key`, `direction`: of the best; None: the result itself, or its ``objective``, and "max".
    Raises CampaignNotFoundError once it was purged. Assumes: one thread at a time.
    """

    def __init__(self, queue: CampaignCommands, *, key: str | None = None, direction: str = "max") -> None:
        self.queue = queue
        self.reader = CampaignReader(queue)
        self._key = key
        self._direction = direction
        self._configs: dict[int, Any] = {}

    def read(self, budget_s: float = LOOK_S, *, to_the_end: bool = False) -> Standing:
        """The campaign now. Reads results for about `budget_s` seconds."""
        queue = self.queue
        live = live_workers(queue.link)  # before the snapshot, see why_unserved
        meta = queue.meta_of(_META)
        if "created_ms" not in meta:
            raise campaign_gone(queue.link, queue.campaign)
        look = self.reader.look_to_the_end if to_the_end else self.reader.look
        overview = look(budget_s)
        snapshot = overview.snapshot
        times_ms = newest_times_ms(queue) if overview.unread else list(overview.summary.times_ms)
        explainer = Explainer(queue, Found(live, meta, snapshot, times_ms))
        unserved = None if explainer.unserved is None else explainer.unserved.text
        return Standing(
            queue.campaign, meta, overview, explainer.pace, live, workers_of(queue, snapshot, live), unserved,
            explainer.campaign().reasons, self.best(overview, self._key, self._direction),
        )  # fmt: skip

    def close(self) -> None:
        self.reader.close()

    def best(self, overview: Overview, key: str | None, direction: str) -> Best | None:
        """The best by this number in the results, or by the main one."""
        key = main_key(overview.summary.keys) if key is None else key
        found = overview.summary.best(key, 1, direction) if key is not None else []
        if not found or key is None:
            return None
        job, value = found[0]
        if job not in self._configs:
            self._configs = {job: self._config_of(job)}
        return Best(job, key, value, self._configs[job])

    def _config_of(self, job: int) -> Any:
        (found,) = self.queue.configs_of([job])
        try:
            return None if found is None else decode(found[1])
        except ValueError:
            return None


def described(campaign: str, meta: Mapping[str, bytes], snapshot: Snapshot) -> dict[str, Any]:
    """What a campaign is, and its counts, as JSON documents show them."""
    return {
        "campaign": campaign,
        "function": text_of(meta, "function"),
        "method": text_of(meta, "method"),
        "queue": label_of(meta),
        "created_at": iso(created_ms_of(meta)),
        "expires_at": iso(expires_ms(meta)),
        "paused": snapshot.paused,
        "total": snapshot.total,
        "counts": {state.value: count for state, count in snapshot.counts.items()},
    }


def expires_ms(meta: Mapping[str, bytes]) -> int | None:
    """When an unnamed campaign may be deleted (Unix); None while it may not."""
    closed_ms = closed_ms_of(meta)
    return None if closed_ms is None else closed_ms + round(EXPIRE_AFTER_S * 1000)


def workers_of(
    queue: CampaignCommands, snapshot: Snapshot, live: Iterable[LiveWorker]
) -> list[dict[str, Any]]:
    """Live workers that attend the campaign or were started for it, and dead ones that hold jobs of it."""
    alive = {worker.card.name: worker for worker in live}
    attending = {attendance.worker: attendance.running for attendance in snapshot.workers}
    named = [n for n, worker in alive.items() if worker.card.is_for(queue.campaign) or n in attending]
    dead = [name for name, running in attending.items() if running and name not in alive]
    rows = [_worker_row(alive[name], attending.get(name, 0)) for name in named]
    rows += [
        {
            "name": name, "host": host, "pid": None, "slots": None, "running": attending[name],
            "last_seen_s": None, "state": "lost",
        }
        for name, host in zip(dead, queue.hosts_of(dead), strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: str(row["name"]))


def shown_key(key: str) -> str:
    """The name of a number, for people."""
    return "the result" if key == WHOLE else key


def _worker_row(worker: LiveWorker, running: int) -> dict[str, Any]:
    card = worker.card
    return {
        "name": card.name, "host": card.host, "pid": card.pid, "slots": card.slots, "running": running,
        "last_seen_s": worker.last_seen_s, "state": card.state,
    } | card.allocation_as_json() | card.use_as_json()  # fmt: skip
