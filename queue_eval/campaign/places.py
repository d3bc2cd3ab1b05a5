"""Where jobs are at one moment. A job that moves is seen in one place, not in two or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from queue_eval.campaign.keys import Keys
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.view import CampaignView, parse_config
from queue_eval.errors import DamagedError
from queue_eval.model.states import State

_MAX_VALUES_PER_PAGE = 4000
"""How many values the transaction for one page of jobs asks for: the server needs a few ms for them."""

_FIRST_TIME_MS = 10**12
"""A worker numbers its requests by the time of the server, in ms: what is less is no time."""


class Origin(NamedTuple):
    """What was submitted as a job."""

    submitted_ms: int
    config: bytes
    tag: bytes = b""
    """JSON; empty where the job has none."""


class Place(NamedTuple):
    """One job at one moment."""

    id: int
    origin: Origin | None
    """None where it was not asked for."""
    entry: str | None
    """The entry of its outcome in the result stream; None for an unfinished job."""
    is_scheduled: bool
    leases: int
    """Leases that have ended, also those that were not charged, which are `uncharged`."""
    uncharged: int
    releases: int
    """Attempts that were given back for a reason."""
    worker: str
    """The worker that holds it; empty for none. It holds it under the number `attempt`."""
    attempt: int
    has_begun: bool
    """Whether the attempt has begun. If not, the job waits on the worker."""
    leased_ms: int | None
    """When it was leased, where that is known (Unix time)."""

    @property
    def state(self) -> State:
        """The state of an unfinished job."""
        if self.worker:
            return State.RUNNING
        return State.SCHEDULED if self.is_scheduled else State.PENDING

    @property
    def attempts(self) -> int:
        """Executions of an unfinished job that have begun and were charged."""
        if self.worker:
            return self.attempt - self.uncharged - (not self.has_begun)
        return self.leases - self.uncharged

    @property
    def began_ms(self) -> int | None:
        """When the attempt that runs has begun, where that is known."""
        return self.leased_ms if self.worker and self.has_begun else None


def places_of(view: CampaignView, ids: Sequence[int], *, with_origins: bool) -> list[Place]:
    """The places of one page of jobs, at one moment.

    `with_origins`: the configs are read, too. Only then jobs that do not exist are left out.
    """
    workers = _workers(view)
    keys = view.keys

    def look(client: Any, *, with_tags: bool) -> list[Any]:
        pipeline = client.pipeline(transaction=True)
        pipeline.hmget(keys.index, ids)
        pipeline.zmscore(keys.column("scheduled"), ids)
        pipeline.hmget(keys.column("attempts"), ids)
        for worker in workers:
            pipeline.hmget(keys.held(worker), ids)
        if with_origins:
            pipeline.hmget(keys.configs, ids)
            return _with_last(pipeline, keys, ids, with_tags=with_tags)
        replies: list[Any] = pipeline.execute()
        return [*replies, [b""] * len(ids), [None] * len(ids)]

    if not ids:
        return []
    index, due, histories, *held, configs, tags = _with_tags(view, look)
    found: list[Place] = []
    for i, job_id in enumerate(ids):
        if configs[i] is None:
            continue
        origin = Origin(*parse_config(configs[i]), tags[i] or b"") if with_origins else None
        holder = next(((worker, h[i]) for worker, h in zip(workers, held, strict=True) if h[i]), None)
        worker, token = holder or ("", b"")
        entry = None if index[i] is None else index[i].decode(errors="replace")
        leases, uncharged, releases = _parse_history(histories[i])
        attempt, has_begun, leased_ms = _parse_held(token)
        found.append(
            Place(
                job_id, origin, entry, due[i] is not None, leases, uncharged, releases, worker, attempt,
                has_begun, leased_ms,
            )
        )  # fmt: skip
    return found


def place_of(view: CampaignView, job_id: int) -> Place:
    """The place of one job, without its origin."""
    (place,) = places_of(view, [job_id], with_origins=False)
    return place


def origins_of(view: CampaignView, ids: Sequence[int]) -> list[Origin | None]:
    """What was submitted as each job; None where there is no such job."""
    found: list[Origin | None] = []
    for page in pages(ids, PAGE):
        configs, tags = _with_tags(view, partial(_read_origins, view.keys, page))
        found += [
            None if config is None else Origin(*parse_config(config), tag or b"")
            for config, tag in zip(configs, tags, strict=True)
        ]
    return found


def _read_origins(keys: Keys, ids: Sequence[int], client: Any, *, with_tags: bool) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    pipeline.hmget(keys.configs, ids)
    return _with_last(pipeline, keys, ids, with_tags=with_tags)


def _with_last(pipeline: Any, keys: Keys, ids: Sequence[int], *, with_tags: bool) -> list[Any]:
    """The replies of a pipeline, with the tags as the last one."""
    if with_tags:
        pipeline.hmget(keys.column("tags"), ids)
    replies: list[Any] = pipeline.execute()
    return replies if with_tags else [*replies, [None] * len(ids)]


def _with_tags(view: CampaignView, read: Callable[..., list[Any]]) -> list[Any]:
    """The reply of `read`, whose last item are tags. A damaged column of them reads as empty."""
    try:
        return view.link.call(partial(read, with_tags=True))
    except DamagedError:
        return view.link.call(partial(read, with_tags=False))


def page_size(view: CampaignView) -> int:
    """How many jobs `places_of` is to be asked for at a time. It asks each worker for each of them."""
    return max(50, _MAX_VALUES_PER_PAGE // (5 + len(_workers(view))))


def all_places_of(
    view: CampaignView, ids: Sequence[int], *, with_origins: bool = False
) -> Iterator[Place]:
    """`places_of` for as many ids as there are. Each page is of its own moment."""
    for page in pages(ids, page_size(view) if ids else 1):
        yield from places_of(view, page, with_origins=with_origins)


def hosts_by_worker(view: CampaignView, workers: Iterable[str]) -> dict[str, str]:
    """Where each of these workers runs, or ran."""
    names = sorted({worker for worker in workers if worker})
    # Without an entry on the roster: the default name of a worker begins with its host.
    return {
        name: host or name.rpartition("-")[0] or name
        for name, host in zip(names, view.hosts_of(names), strict=True)
    }


def _workers(view: CampaignView) -> list[str]:
    names = view.link.call(lambda client: client.zrange(view.keys.column("workers"), 0, -1))
    return [name.decode(errors="replace") for name in names]


def _parse_history(value: bytes | None) -> tuple[int, int, int]:
    """How many leases a job had, how many were not charged, and how many were given back for a reason.

    All three are 0 for a damaged value.
    """
    match = re.fullmatch(rb"(\d+) \d+ \d+ (\d+) \d(?: (\d+))?", value or b"")
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def _parse_held(value: bytes) -> tuple[int, bool, int | None]:
    """Number of the attempt that a worker holds, whether it has begun, and when it was leased (ms)."""
    match = re.fullmatch(rb"(\d+) (\S+) (\d)", value)
    if match is None:
        return 1, True, None
    leased = re.search(rb"-(\d{1,15})$", match[2])
    leased_ms = int(leased[1]) if leased else 0
    return int(match[1]), match[3] == b"1", leased_ms if leased_ms > _FIRST_TIME_MS else None
