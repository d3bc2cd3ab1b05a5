"""The registry of a server's workers: the card of each, which campaigns it serves, and how it is notified."""

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
from queue_eval.model.shape import Shape
from queue_eval.transport.clients import node_of
from queue_eval.transport.error_kinds import undamaged
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

MAX_CARD_REFUSALS, MAX_REASON_CHARACTERS = 20, 400
"""How many refused campaigns a card names, the newest ones, and how long each reason may be."""

CARD_LEASES = 2
"""For how many leases a card stays after the last sign of life."""

_MAX_CARD_GPUS = 64

ANNOUNCED_S = 15.0
"""An announced worker that has not registered itself after this time is not counted any more."""

_CLOCK_TOLERANCE_MS = 1000
_MAX_NUMBER = 2**53
_MAX_TIME_S = 250_000_000_000
_MAX_TEXT_CHARACTERS = 200
_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """How busy one GPU is."""

    util: float | None
    """Percent of the time of the last second or so in which it worked."""
    memory_used: int | None
    """Bytes."""
    memory_total: int | None


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
    """None: all campaigns with the labels that it serves."""
    born: float | None = None
    """See `machine.birth_of`: with the pid, which process it is."""
    queues: tuple[str, ...] | None = None
    """The labels that it was started for; None: it was given none."""
    state: str = "unknown"
    lease_s: float | None = None
    busy: int | None = None
    """How many of its slots were taken at its last heartbeat."""
    announced: bool = False
    """A driver wrote this card, because it is about to start the worker."""
    refused: dict[str, str] = field(default_factory=dict)
    """Campaign -> why the worker does not serve it, though it should."""
    scheduler: str | None = None
    """`slurm` or `sge`, when it runs in an allocation of one."""
    scheduler_job: str | None = None
    """The allocation's job id, as the scheduler's commands take it."""
    node: str | None = None
    """The scheduler's name of its node."""
    restarts: int | None = None
    """How often the scheduler has started its job again."""
    allocation_ends: float | None = None
    """When the allocation ends (s since 1970), where the worker knows it."""
    longest_job_s: float | None = None
    """How long a job could run on it that began when the worker did; None: as long as it likes."""
    load: float | None = None
    """Of its host: processes that run or want to, a mean over a minute, for each core."""
    memory_used: int | None = None
    """Bytes, of its host, or of what its allocation or container may use where that is less."""
    memory_total: int | None = None
    gpus: tuple[GpuUse, ...] | None = None
    """Those that its slots own; None where they own none, or nothing tells."""
    launch: str | None = None
    """Digest of what its driver has started it with; None: no driver has, or one of an earlier build."""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, name: str, text: bytes) -> WorkerCard:
        """The card in `text` (JSON). A damaged field reads as if it were missing."""
        try:
            fields = decode(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            fields = {}
        return cls(
            name=name,
            host=str(fields.get("host") or ""),
            machine=str(fields.get("machine") or ""),
            pid=_number(fields.get("pid"), int),
            created=_number(fields.get("created"), float),
            born=_number(fields.get("born"), float),
            slots=_number(fields.get("slots"), int),
            campaigns=_names(fields.get("campaigns")),
            queues=_names(fields.get("queues")),
            state=str(fields.get("state") or "unknown"),
            lease_s=_number(fields.get("lease_s"), float),
            busy=_number(fields.get("busy"), int),
            announced=bool(fields.get("announced")),
            refused=_reasons(fields.get("refused")),
            scheduler=_text(fields.get("scheduler")),
            scheduler_job=_text(fields.get("scheduler_job")),
            node=_text(fields.get("node")),
            restarts=_number(fields.get("restarts"), int),
            allocation_ends=_time(fields.get("allocation_ends")),
            longest_job_s=_number(fields.get("longest_job_s"), float),
            load=_number(fields.get("load"), float),
            memory_used=_number(fields.get("memory_used"), int),
            memory_total=_number(fields.get("memory_total"), int),
            gpus=_gpus(fields.get("gpus")),
            launch=_text(fields.get("launch")),
        )

    @property
    def life_s(self) -> float | None:
        """How long the card stays after a sign of life (s); None where that is not known."""
        if self.announced:
            return ANNOUNCED_S
        return None if self.lease_s is None else CARD_LEASES * self.lease_s

    def allocation_as_json(self) -> dict[str, Any]:
        """What the card says of the allocation, as JSON values; empty when the worker runs in none."""
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

    def use_as_json(self) -> dict[str, Any]:
        """How busy its host and its GPUs are, as JSON values; what nothing tells is left out."""
        use: dict[str, Any] = {
            "load": self.load, "memory_used": self.memory_used, "memory_total": self.memory_total,
            "gpus": None if self.gpus is None else [asdict(gpu) for gpu in self.gpus],
        }  # fmt: skip
        return {name: value for name, value in use.items() if value is not None}

    def is_for(self, campaign: str) -> bool:
        """Whether the worker was started for this campaign by name."""
        return self.campaigns is not None and campaign in self.campaigns

    def could_run(self, shape: Shape) -> bool:
        """Whether it had the slots and the time for jobs of this shape when it began."""
        has_time = self.longest_job_s is None or shape.time_s <= self.longest_job_s
        return shape.slots <= (self.slots or 0) and has_time

    @property
    def is_full(self) -> bool:
        """Whether all its slots were taken at its last heartbeat."""
        return self.busy is not None and self.slots is not None and self.busy >= self.slots

    def serves(self, campaign: str, label: str) -> bool:
        return is_served(campaign, label, self.campaigns, self.queues)


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker whose card has not expired, and how long ago its last heartbeat was, by the server's clock."""

    card: WorkerCard
    last_seen_s: float

    def as_json(self) -> dict[str, Any]:
        card = self.card
        return {
            "name": card.name, "host": card.host, "machine": card.machine, "pid": card.pid,
            "created": card.created, "slots": card.slots, "campaigns": card.campaigns, "queues": card.queues,
            "state": card.state, "refused": card.refused, "last_seen_s": self.last_seen_s,
        } | card.allocation_as_json() | card.use_as_json()  # fmt: skip


def is_served(
    campaign: str, label: str, campaigns: Sequence[str] | None, queues: Sequence[str] | None
) -> bool:
    """Whether a worker for these campaigns and labels serves this one.

    A worker that names labels serves only these. A worker that names none serves the campaigns that it names,
    whatever their label. If it names no campaigns either, it serves all campaigns without a label.
    """
    if campaigns is not None and campaign not in campaigns:
        return False
    if queues is not None:
        return label in queues
    return campaigns is not None or label == DEFAULT_QUEUE


def live_workers(link: Link) -> list[LiveWorker]:
    """Every worker whose card has not expired, by name. Raises NodeAwayError when some cannot be seen."""
    names = link.call(lambda client: client.zrange(keys.WORKERS, 0, -1, withscores=True))
    # The node that holds the scores is asked, because they are by its clock.
    seconds, micros = link.call(lambda client: client.time(**node_of(client, keys.WORKERS)))
    now_ms = seconds * 1000 + micros / 1000
    _pull_back(link, [name for name, seen_ms in names if seen_ms > now_ms + _CLOCK_TOLERANCE_MS], now_ms)
    found = []
    for page in pages(names, PAGE):
        cards = _cards(link, [keys.worker_key(name.decode(errors="replace")) for name, _ in page])
        for (name, seen_ms), text in zip(page, cards, strict=True):
            if text is not None:
                card = WorkerCard.parse(name.decode(errors="replace"), text)
                silent_s = max(0.0, now_ms - seen_ms) / 1000
                # A card outlives its time by as much as the server's clock was set back.
                if card.life_s is None or silent_s <= card.life_s + _CLOCK_TOLERANCE_MS / 1000:
                    found.append(LiveWorker(card, round(silent_s, 3)))
    return sorted(found, key=lambda worker: worker.card.name)


def _pull_back(link: Link, names: Sequence[bytes], now_ms: float) -> None:
    """Date heartbeats to now that lie in the future, because the server's clock was set back since."""
    if names:
        seen = dict.fromkeys(names, round(now_ms))
        with suppress(ServerRefusedError):  # a user that may only read leaves it to others
            link.call(lambda client: client.zadd(keys.WORKERS, seen, xx=True, lt=True))


def card_of(link: Link, name: str) -> WorkerCard | None:
    """The card of one worker, unless it has expired."""
    (text,) = _cards(link, [keys.worker_key(name)])
    return None if text is None else WorkerCard.parse(name, text)


def notify(link: Link, what: str, *, workers: Sequence[str] = (), **about: str) -> None:
    """Ask workers to look now rather than at their next heartbeat; just these `workers`, if any are named."""
    notice = {"what": what, **about}
    if workers:
        notice["workers"] = " ".join(workers)
    try:
        with link.skipping_nodes():
            link.call(lambda client: client.xadd(keys.NOTICES, notice, maxlen=1000, approximate=True))
    except (DamagedError, NodeAwayError) as error:  # their next heartbeat looks anyway
        log.warning("workers cannot be told to look now: %s", error)


def ask_to_drain(link: Link, workers: Sequence[str]) -> None:
    """Have these workers finish what they run, then end."""
    if not workers:
        return
    link.call(lambda client: client.sadd(keys.DRAIN, *workers))
    # The notice only makes it faster: every heartbeat looks at the set.
    for worker in workers:
        notify(link, "drain", worker=worker)


def _cards(link: Link, places: Sequence[str]) -> list[bytes | None]:
    # Not MGET: on a cluster these keys lie in different slots.
    replies = link.ask_each([(place, ("GET", place)) for place in places])
    # This raises NodeAwayError: a card on a node that is away must not read as one that is not there.
    return undamaged(replies)


def _number(value: Any, kind: Callable[[Any], _N]) -> _N | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    return kind(value) if is_number else None


def _time(value: Any) -> float | None:
    """Seconds since 1970; None for what `datetime` cannot show."""
    at = _number(value, float)
    return at if at is not None and 0 <= at < _MAX_TIME_S else None


def _text(value: Any) -> str | None:
    return str(value)[:_MAX_TEXT_CHARACTERS] if isinstance(value, (str, int)) and value != "" else None


def _reasons(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {str(name): str(why)[:MAX_REASON_CHARACTERS] for name, why in value.items()}


def _gpus(value: Any) -> tuple[GpuUse, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    return tuple(
        GpuUse(
            util=_number(gpu.get("util"), float), memory_used=_number(gpu.get("memory_used"), int),
            memory_total=_number(gpu.get("memory_total"), int),
        )
        for gpu in value[:_MAX_CARD_GPUS] if isinstance(gpu, dict)
    )  # fmt: skip


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else None
