"""Jobs as the commands show them. They are read a page at a time, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.meta import failure_value_of
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.places import Origin, Place, hosts_by_worker, origins_of, page_size, places_of
from queue_eval.campaign.result_stream import ResultEntry, judged, lost_entry
from queue_eval.model.codec import decode, decode_tag
from queue_eval.model.states import Outcome, State
from queue_eval.transport.link import Link
from queue_eval.views.formats import iso


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job at one moment.

    `attempts`: executions that have begun and were charged. `releases`: executions that were given back for
    a reason. `worker`: the one that runs the job, or ran it last.
    """

    id: int
    state: State
    attempts: int
    releases: int
    worker: str | None
    host: str | None
    submitted_ms: int
    config: bytes
    tag: bytes
    entry: ResultEntry | None
    created_ms: int
    failure_value: Any

    @property
    def finished_ms(self) -> int | None:
        return None if self.entry is None else self.entry.finished_ms

    @property
    def run_s(self) -> float | None:
        """How long the last attempt ran."""
        return None if self.entry is None or self.entry.run_ms is None else self.entry.run_ms / 1000

    @property
    def duration_s(self) -> float | None:
        """From submission to completion."""
        return None if self.entry is None else max(0, self.entry.finished_ms - self.submitted_ms) / 1000

    @property
    def error(self) -> str | None:
        if self.entry is None or self.state is not State.FAILED:
            return None
        return self.entry.body.decode(errors="replace")

    @property
    def stopped_early(self) -> bool:
        """Whether it has succeeded, and ended early because it was asked to."""
        entry = self.entry
        return entry is not None and self.state is State.SUCCEEDED and entry.cause == Outcome.STOPPED

    @property
    def result(self) -> Any:
        """What the run function returned; the failure value when failed or cancelled, None before the end."""
        if self.entry is None:
            return None
        return _json(self.entry.body) if self.state is State.SUCCEEDED else self.failure_value

    def as_json(self) -> dict[str, Any]:
        entry = self.entry
        return {
            "id": self.id,
            "config": self._config(),
            "tag": decode_tag(self.tag),
            "state": self.state.value,
            "result": self.result,
            "error": self.error,
            "cause": (entry.cause or None) if entry and self.state is State.FAILED else None,
            "stopped_early": self.stopped_early,
            "attempts": self.attempts,
            "releases": self.releases,
            "worker": self.worker,
            "host": self.host,
            "submitted_at": iso(self.submitted_ms),
            "started_at": iso(entry.started_ms) if entry else None,
            "finished_at": iso(self.finished_ms),
            "run_s": self.run_s,
            "wait_s": self._wait_s(),
            "duration": self.duration_s,
            "elapsed_sec": max(0, entry.finished_ms - self.created_ms) / 1000 if entry else None,
            "source": (entry.source or None) if entry else None,
        }

    def _config(self) -> dict[str, Any]:
        config = _json(self.config)
        return config if isinstance(config, dict) else {"damaged": config}

    def _wait_s(self) -> float | None:
        if self.entry is None or self.entry.started_ms is None:
            return None
        return round(max(0.0, self.entry.started_ms - self.submitted_ms) / 1000, 6)


class JobRecordReader:
    """Reads `JobRecord`s of one campaign. Guarantees: all records of one page are of one moment."""

    def __init__(self, queue: CampaignCommands) -> None:
        self._queue = queue
        meta = queue.meta()
        self._created_ms = int(meta["created_ms"])
        self._failure_value = failure_value_of(meta)
        self._hosts: dict[str, str] = {}

    def pages_of_state(self, state: State | None) -> Iterator[list[JobRecord]]:
        """Every job, or those in `state`, in the order of their ids. A page may be empty."""
        for page in pages(self._candidates(state), page_size(self._queue)):
            yield [record for record in self.of(page) if state is None or record.state is state]

    def of(self, ids: Sequence[int]) -> list[JobRecord]:
        """The jobs with these ids, without those that do not exist."""
        places = places_of(self._queue, ids, with_origins=True)
        finished = [place.entry for place in places if place.entry is not None]
        entries = {entry.entry: entry for entry in self._queue.entries(finished)}
        return [self._record(place, entries) for place in places]

    def of_entries(self, entries: Sequence[ResultEntry]) -> list[JobRecord]:
        """The finished jobs whose current outcomes are among these entries."""
        ids = [entry.id for entry in entries]
        # The log keeps former outcomes of jobs that were retried; the index has forgotten them.
        index = self._queue.index_of(ids)
        origins = origins_of(self._queue, ids)
        return [
            self._finished(entry, origin)
            for entry, current, origin in zip(entries, index, origins, strict=True)
            if current == entry.entry and origin is not None
        ]

    def _record(self, place: Place, entries: Mapping[str, ResultEntry]) -> JobRecord:
        assert place.origin is not None
        if place.entry is not None:
            entry = entries.get(place.entry) or lost_entry(place.id, place.entry)
            return self._finished(entry, place.origin)
        return JobRecord(
            place.id, place.state, place.attempts, place.releases, place.worker or None,
            self._host(place.worker), *place.origin, None, self._created_ms,
            self._failure_value,
        )  # fmt: skip

    def _finished(self, entry: ResultEntry, origin: Origin) -> JobRecord:
        entry = judged(entry)
        return JobRecord(
            entry.id, entry.state, entry.attempts, entry.releases, entry.worker or None,
            self._host(entry.worker), *origin, entry, self._created_ms, self._failure_value,
        )  # fmt: skip

    def _host(self, worker: str) -> str | None:
        if worker and worker not in self._hosts:
            self._hosts |= hosts_by_worker(self._queue, [worker])
        return self._hosts.get(worker)

    def _candidates(self, state: State | None) -> Iterable[int]:
        """Ids that include those of all jobs in `state`."""
        queue, key = self._queue, self._queue.keys
        if state is State.RUNNING:
            workers = self._call(lambda c: c.zrange(key.column("workers"), 0, -1))
            held = [self._call(_hkeys(key.held(worker.decode(errors="replace")))) for worker in workers]
            return _ids(chain.from_iterable(held))
        if state in (State.FAILED, State.CANCELLED):
            column = key.column(state.value)
            return _ids(self._call(lambda c: list(c.sscan_iter(column, count=PAGE))))
        # Pending and scheduled jobs may be found by rank, but ranks shift while jobs are taken; ids do not.
        return range(1, queue.snapshot().last_id + 1)

    def _call(self, operation: Callable[[Any], Any]) -> Any:
        link: Link = self._queue.link
        return link.call(operation)


def _ids(members: Iterable[bytes]) -> list[int]:
    """The members that are ids, in order."""
    return sorted(int(member) for member in members if member.isdigit())


def _hkeys(key: str) -> Callable[[Any], Any]:
    return lambda client: client.hkeys(key)


def _json(text: bytes) -> Any:
    try:
        return decode(text)
    except ValueError:
        return text.decode(errors="replace")
