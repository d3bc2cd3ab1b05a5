"""The workers of a server: what each says about itself, which campaigns are for it, how to speak to them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from queue_eval.campaign import keys
from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.errors import DamagedError, NodeAwayError, ServerRefusedError
from queue_eval.foreign_text import plain
from queue_eval.model.codec import decode
from queue_eval.transport.clients import node_of
from queue_eval.transport.error_kinds import undamaged
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

MOST_REFUSALS, MOST_REASON = 20, 400
"""How much a card tells of what its worker refuses: so many campaigns, the newest, and so long reasons."""

CARD_LEASES = 2
"""A card stays for so many leases."""

ANNOUNCED_S = 15.0
"""A worker that has not registered itself so long after its announcement is not counted any more."""

_CLOCK_MS = 1000
_MOST = 2**53
_LAST_DATE = 250_000_000_000
_MOST_TEXT = 200
_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCard:
    """What a worker says about itself on the server, where it expires when the worker is silent."""

    name: str
    host: str = ""
    machine: str = ""
    pid: int | None = None
    created: float | None = None
    slots: int | None = None
    campaigns: tuple[str, ...] | None = None
    """None: all campaigns of its queues."""
    born: float | None = None
    """See `machine.birth_of`: with the pid, which process it is."""
    queues: tuple[str, ...] | None = None
    """None: it names no label."""
    state: str = "unknown"
    lease_s: float | None = None
    busy: int | None = None
    """How many of its slots were taken at its last heartbeat."""
    announced: bool = False
    """It is about to be started by a driver, which says so on its behalf."""
    refused: dict[str, str] = field(default_factory=dict)
    """Campaigns that are for it and that it does not serve, and why."""
    scheduler: str | None = None
    """`slurm` or `sge`, when it runs in an allocation of one."""
    scheduler_job: str | None = None
    """The allocation's job id, as the scheduler's commands take it."""
    node: str | None = None
    """What the scheduler calls its node."""
    restarts: int | None = None
    """How often the scheduler has started its job again."""
    allocation_ends: float | None = None
    """When the allocation ends (s since 1970), where the worker knows it."""
    launch: str | None = None
    """Digest of what its driver has started it with; None: no driver has, or one of an earlier build."""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, name: str, text: bytes) -> WorkerCard:
        """What is damaged reads as if nothing were said."""
        try:
            said = decode(text)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            said = {}
        return cls(
            name=name,
            host=str(said.get("host") or ""),
            machine=str(said.get("machine") or ""),
            pid=_number(said.get("pid"), int),
            created=_number(said.get("created"), float),
            born=_number(said.get("born"), float),
            slots=_number(said.get("slots"), int),
            campaigns=_names(said.get("campaigns")),
            queues=_names(said.get("queues")),
            state=str(said.get("state") or "unknown"),
            lease_s=_number(said.get("lease_s"), float),
            busy=_number(said.get("busy"), int),
            announced=bool(said.get("announced")),
            refused=_reasons(said.get("refused")),
            scheduler=_text(said.get("scheduler")),
            scheduler_job=_text(said.get("scheduler_job")),
            node=_text(said.get("node")),
            restarts=_number(said.get("restarts"), int),
            allocation_ends=_time(said.get("allocation_ends")),
            launch=_text(said.get("launch")),
        )

    @property
    def life_s(self) -> float | None:
        """For how long after a sign of life the card stays (s), where that is known."""
        if self.announced:
            return ANNOUNCED_S
        return None if self.lease_s is None else CARD_LEASES * self.lease_s

    def allocation_as_json(self) -> dict[str, Any]:
        """What it says of its allocation; nothing when it runs in none."""
        if self.scheduler is None:
            return {}
        ends = self.allocation_ends
        return {
            "scheduler": self.scheduler, "scheduler_job": self.scheduler_job, "node": self.node,
            "restarts": self.restarts,
            "allocation_ends_at": (
                None if ends is None else datetime.fromtimestamp(ends, UTC).isoformat(timespec="seconds")
            ),
        }  # fmt: skip

    def is_for(self, campaign: str) -> bool:
        """Whether it was started for this campaign by name."""
        return self.campaigns is not None and campaign in self.campaigns

    @property
    def is_full(self) -> bool:
        """Whether all its slots were taken at its last heartbeat."""
        return self.busy is not None and self.slots is not None and self.busy >= self.slots

    def serves(self, campaign: str, label: str) -> bool:
        return is_served(campaign, label, self.campaigns, self.queues)


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker whose card has not expired, and how long ago (by the server's clock) it last beat."""

    card: WorkerCard
    last_seen_s: float

    def as_json(self) -> dict[str, Any]:
        card = self.card
        return {
            "name": card.name, "host": card.host, "machine": card.machine, "pid": card.pid,
            "created": card.created, "slots": card.slots, "campaigns": card.campaigns, "queues": card.queues,
            "state": card.state, "refused": card.refused, "last_seen_s": self.last_seen_s,
        } | card.allocation_as_json()  # fmt: skip


def is_served(
    campaign: str, label: str, campaigns: Sequence[str] | None, queues: Sequence[str] | None
) -> bool:
    """Whether a worker for these campaigns and labels serves this one.

    One that names labels serves only these. One that names none serves the campaigns that it names, whatever
    their label, or else all that have none.
    """
    if campaigns is not None and campaign not in campaigns:
        return False
    if queues is not None:
        return label in queues
    return campaigns is not None or label == DEFAULT_QUEUE


def live_workers(link: Link) -> list[LiveWorker]:
    """Every worker whose card has not expired, by name. Raises NodeAwayError when some cannot be seen."""
    names = link.call(lambda client: client.zrange(keys.WORKERS, 0, -1, withscores=True))
    # By the clock that the scores are of.
    seconds, micros = link.call(lambda client: client.time(**node_of(client, keys.WORKERS)))
    now_ms = seconds * 1000 + micros / 1000
    _pull_back(link, [name for name, seen_ms in names if seen_ms > now_ms + _CLOCK_MS], now_ms)
    found = []
    for page in pages(names, PAGE):
        cards = _cards(link, [keys.worker_key(name.decode(errors="replace")) for name, _ in page])
        for (name, seen_ms), text in zip(page, cards, strict=True):
            if text is not None:
                card = WorkerCard.parse(name.decode(errors="replace"), text)
                silent_s = max(0.0, now_ms - seen_ms) / 1000
                # A card outlives its time by as much as the server's clock was set back.
                if card.life_s is None or silent_s <= card.life_s + _CLOCK_MS / 1000:
                    found.append(LiveWorker(card, round(silent_s, 3)))
    return sorted(found, key=lambda worker: worker.card.name)


def _pull_back(link: Link, names: Sequence[bytes], now_ms: float) -> None:
    """Signs of life from before the server's clock was set back: their silence is counted from now."""
    if names:
        seen = dict.fromkeys(names, round(now_ms))
        with suppress(ServerRefusedError):  # who may only look leaves it to others
            link.call(lambda client: client.zadd(keys.WORKERS, seen, xx=True, lt=True))


def card_of(link: Link, name: str) -> WorkerCard | None:
    """The card of one worker, unless it has expired."""
    (text,) = _cards(link, [keys.worker_key(name)])
    return None if text is None else WorkerCard.parse(name, text)


def notify(link: Link, what: str, **about: str) -> None:
    """Ask workers to look now rather than at their next heartbeat."""
    notice = {"what": what, **about}
    try:
        with link.skipping_nodes():
            link.call(lambda client: client.xadd(keys.NOTICES, notice, maxlen=1000, approximate=True))
    except (DamagedError, NodeAwayError) as error:  # they look without it, too
        log.warning("workers cannot be told to look now: %s", error)


def ask_to_drain(link: Link, workers: Sequence[str]) -> None:
    """Have these workers finish what they run, then end."""
    if not workers:
        return
    link.call(lambda client: client.sadd(keys.DRAIN, *workers))
    # Only so that it is noticed at once: every heartbeat looks at the set.
    for worker in workers:
        notify(link, "drain", worker=worker)


def _cards(link: Link, places: Sequence[str]) -> list[bytes | None]:
    # Not MGET: on a cluster these keys lie in different slots.
    replies = link.ask_each([(place, ("GET", place)) for place in places])
    # A card on a node that is away is not one that is not there: raised.
    return undamaged(replies)


def _number(said: Any, kind: Callable[[Any], _N]) -> _N | None:
    is_number = isinstance(said, (int, float)) and not isinstance(said, bool) and abs(said) < _MOST
    return kind(said) if is_number else None


def _time(said: Any) -> float | None:
    """Seconds since 1970, of a moment that has a date."""
    at = _number(said, float)
    return at if at is not None and 0 <= at < _LAST_DATE else None


def _text(said: Any) -> str | None:
    return str(said)[:_MOST_TEXT] if isinstance(said, (str, int)) and said != "" else None


def _reasons(said: Any) -> dict[str, str]:
    return {str(name): str(why)[:MOST_REASON] for name, why in said.items()} if isinstance(said, dict) else {}


def _names(said: Any) -> tuple[str, ...] | None:
    return tuple(map(str, said)) if isinstance(said, (list, tuple)) else None
