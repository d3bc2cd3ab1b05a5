"""Live workers as the registry on the server has them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from queue_eval import keys
from queue_eval.connection import Link
from queue_eval.paging import PAGE, pages


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """What a worker says about itself, and how long ago (by the server's clock) it last did."""

    name: str
    host: str
    machine: str
    pid: int | None
    created: float | None
    slots: int | None
    campaigns: list[str] | None
    """None: all campaigns of the server."""
    state: str
    last_seen_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_for(self, campaign: str) -> bool:
        """Whether it was started for this campaign by name."""
        return self.campaigns is not None and campaign in self.campaigns


def live_workers(link: Link) -> list[LiveWorker]:
    """Every worker whose registration has not expired, by name."""
    names = link.call(lambda client: client.zrange(keys.WORKERS, 0, -1, withscores=True))
    seconds, micros = link.call(lambda client: client.time())
    now_ms = seconds * 1000 + micros / 1000
    found = []
    for page in pages(names, PAGE):
        places = [keys.worker_key(name.decode()) for name, _ in page]
        cards = link.call(lambda client, places=places: client.mget(places))  # type: ignore[misc]
        for (name, seen_ms), card in zip(page, cards, strict=True):
            if card is not None:
                found.append(_parse(name.decode(errors="replace"), card, max(0.0, now_ms - seen_ms) / 1000))
    return sorted(found, key=lambda worker: worker.name)


def _parse(name: str, card: bytes, last_seen_s: float) -> LiveWorker:
    try:
        said = json.loads(card)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    return LiveWorker(
        name=name,
        host=str(said.get("host") or ""),
        machine=str(said.get("machine") or ""),
        pid=said.get("pid"),
        created=said.get("created"),
        slots=said.get("slots"),
        campaigns=said.get("campaigns"),
        state=str(said.get("state") or "unknown"),
        last_seen_s=round(last_seen_s, 3),
    )
