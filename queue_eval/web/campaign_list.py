"""The list of campaigns, and the numbers of all of them for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from queue_eval.campaign.expiry import FIELDS
from queue_eval.campaign.keys import Keys, is_campaign_name
from queue_eval.campaign.meta import created_ms_of
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.campaign.scripts import script
from queue_eval.campaign.view import SCHEMA_VERSION, CampaignView
from queue_eval.model.moves import Snapshot
from queue_eval.transport.link import Link
from queue_eval.views.campaign_list import campaign_names
from queue_eval.views.pace import rate_per_s
from queue_eval.views.standing import described
from queue_eval.web.metrics import CampaignNumbers, exposition

MOST_LISTED = 500
"""So many campaigns are listed: the newest."""

_META = ("schema", "function", "method", "queue", "created_ms", "resting", *FIELDS)
_RATED_RESULTS = 50
_MOST_RATED = 50
_RATE_EVERY_S = 10.0


class _Listed(NamedTuple):
    name: str
    meta: dict[str, bytes]
    snapshot: Snapshot


class CampaignList:
    """Assumes: one thread at a time. A look costs a few calls; campaigns that rest are not counted again."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._listed: list[_Listed] = []
        self._more = 0
        self._rates: dict[str, float | None] = {}
        self._rated_at = float("-inf")

    def look(self) -> None:
        """Read the list anew. Raises ServerError."""
        known = [name for name in campaign_names(self._link) if is_campaign_name(name)]
        self._more = max(0, len(known) - MOST_LISTED)
        shown = known[-MOST_LISTED:]
        metas = [meta for page in pages(shown, PAGE) for meta in self._metas(page)]
        before = {one.name: one for one in self._listed}
        sound = {name: meta for name, meta in zip(shown, metas, strict=True) if _is_sound(meta)}
        resting = {
            name: before[name].snapshot
            for name, meta in sound.items()
            if "resting" in meta and name in before and before[name].meta == meta
        }
        counted = self._snapshots([name for name in sound if name not in resting]) | resting
        self._listed = [_Listed(name, sound[name], counted[name]) for name in sound if name in counted]

    def document(self) -> dict[str, Any]:
        """The campaigns, the oldest first."""
        rows = []
        for name, meta, snapshot in self._listed:
            row = described(name, meta, snapshot)
            del row["created_at"], row["expires_at"]
            rows.append(row | {"created_ms": created_ms_of(meta), "planned": snapshot.planned})
        return {"campaigns": rows, "more": self._more}

    def metrics(self) -> str:
        """The numbers of now, for Prometheus. Raises ServerError."""
        self.look()
        workers: list[LiveWorker] = live_workers(self._link)
        now = time.monotonic()
        if now >= self._rated_at + _RATE_EVERY_S:
            self._rates, self._rated_at = self._read_rates(), now
        return exposition(
            [CampaignNumbers(one.name, one.snapshot, self._rates.get(one.name, 0.0)) for one in self._listed],
            [worker.card for worker in workers],
        )

    def _metas(self, names: Sequence[str]) -> list[dict[str, bytes]]:
        replies = self._link.ask_each([(Keys(n).meta, ("HMGET", Keys(n).meta, *_META)) for n in names])
        return [
            {} if isinstance(reply, Exception)
            else {field: value for field, value in zip(_META, reply, strict=True) if value is not None}
            for reply in replies
        ]  # fmt: skip

    def _snapshots(self, names: Sequence[str]) -> dict[str, Snapshot]:
        replies = self._link.run_scripts(script("snapshot"), [(tuple(Keys(n).columns), ()) for n in names])
        found = {}
        for name, reply in zip(names, replies, strict=True):
            if not isinstance(reply, Exception) and reply:  # else it is damaged, or was purged a moment ago
                try:
                    found[name] = Snapshot.of(reply)
                except (ValueError, TypeError, LookupError, AttributeError):
                    continue
        return found

    def _read_rates(self) -> dict[str, float | None]:
        """Results per second of the campaigns that have something to do."""
        busy = [one for one in self._listed if one.snapshot.outstanding][-_MOST_RATED:]
        return {one.name: self._rate_of(one) for one in busy}

    def _rate_of(self, one: _Listed) -> float | None:
        view = CampaignView(self._link, one.name, one.meta["uid"].decode(errors="replace"))
        times_ms = [entry.finished_ms for entry in reversed(view.newest(_RATED_RESULTS))]
        return rate_per_s(times_ms, created_ms_of(one.meta), one.snapshot.now_ms)


def _is_sound(meta: dict[str, bytes]) -> bool:
    is_ours = meta.get("schema") == SCHEMA_VERSION.encode() and "uid" in meta
    return is_ours and meta.get("created_ms", b"").isdigit()
