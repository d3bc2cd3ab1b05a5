"""Which jobs are a driver's, and how far each has come: memory only, no connection.

::

    submitted ──▶ waiting ──▶ ready ──▶ done          adopted: outstanding when the campaign was opened,
    adopted   ─────────────▶ ready ──▶ done          known only by number until its outcome arrives

What was outstanding at the opening need not be listed, which would cost a million reads for a million
jobs: those are exactly `adopted_total` jobs with ids up to `horizon`, and each has its one outcome in the
result stream after the tail of the opening. A job that is joined while adopted is counted as submitted.

Every change is made so that it may be cut off between any two steps and made again: an outcome is read
again from the cursor, which moves last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from queue_eval.campaign.result_stream import ResultEntry, entry_order
from queue_eval.driver.id_set import IdSet
from queue_eval.model.job import Job
from queue_eval.model.moves import Opened

Order = tuple[int, int]

Watcher = Callable[[Job], bool]
"""Told that a job is finished; True when it is still awaited: then no gather returns it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an unknown job came from: its submission and its config, as the server has them."""

    submitted_ms: int
    config: bytes


@dataclass
class Ledger:
    """The jobs of one driver. Assumes: the caller holds its lock for every call."""

    opened: Opened
    keep: bool = True
    """Whether jobs that were gathered stay in memory."""
    gathered: IdSet = field(default_factory=IdSet)
    """Gathered, or given by history: also those that are kept no more."""
    tracked: dict[int, Job] = field(default_factory=dict)
    """Every job of this life that is kept, by id."""
    waiting: dict[int, Job] = field(default_factory=dict)
    """Submitted, outcome not known here."""
    joined: dict[int, str] = field(default_factory=dict)
    """Of these, the entry of the outcome that the server already has."""
    ready: OrderedDict[int, Job] = field(default_factory=OrderedDict)
    """Finished, not gathered, in the order in which they finished.

    `as_completed` takes them from the front, one at a time. To find the first item of a plain dict, Python
    steps over all that were taken from its front before.
    """
    told: set[int] = field(default_factory=set)
    """Of the ready ones, those that the callbacks have seen."""
    done: dict[int, Job] = field(default_factory=dict)
    """Gathered, or given by history."""
    watchers: dict[int, Watcher] = field(default_factory=dict)
    """Who awaits a job by itself."""
    counted: IdSet = field(default_factory=IdSet)
    """Adopted ids that are no longer outstanding as adopted."""
    fences: dict[int, Order] = field(default_factory=dict)
    """Entry up to which the outcomes of a waiting job are out of date."""

    forgotten: dict[int, Job] = field(default_factory=dict)
    """Jobs that are being submitted again, by the ids that they have until then: also those not kept."""

    early: dict[int, str] = field(default_factory=dict)
    """Outcomes read while a submission was on its way, which may turn out to be of its jobs: id -> entry."""
    submitting: bool = False

    def __post_init__(self) -> None:
        self.cursor = self.opened.tail
        self.tail = entry_order(self.opened.tail)
        self.horizon = self.opened.last_id
        self.last_id = self.opened.last_id

    @property
    def adopted(self) -> int:
        """Outstanding jobs of earlier lives that were not joined in this one."""
        return max(0, self.opened.outstanding - len(self.counted))

    @property
    def unresolved(self) -> int:
        return len(self.waiting) + self.adopted

    @property
    def outstanding(self) -> int:
        """Jobs that no gather has returned."""
        return self.unresolved + len(self.ready)

    def add(self, job: Job, entry: str | None, fence: str | None, *, retried: bool) -> None:
        """A job whose id the server has just given. `retried`: its stamp is later than the opening."""
        if job.id <= self.horizon and not retried and (entry is None or entry_order(entry) > self.tail):
            # Outstanding at the opening; its outcome, if it was not read yet, now belongs to this job.
            self.counted.add(job.id)
        if entry is None and fence is not None:
            self.fences[job.id] = entry_order(fence)
        if entry is None and job.id in self.early:
            # Another thread read it between the server's reply and now.
            read = self.early[job.id]
            if fence is None or entry_order(read) > entry_order(fence):
                entry = read
        if entry is not None:
            self.joined[job.id] = entry
        self.waiting[job.id] = job
        self.tracked[job.id] = job
        self.ready.pop(job.id, None)
        self.told.discard(job.id)
        self.last_id = max(self.last_id, job.id)

    def renumber(self, job: Job, id_: int) -> None:
        """The server has forgotten this job, and has it under this id now.

        Who has had that id was forgotten, too: until it is renumbered itself, it takes the former one of
        `job`, so that no two are ever in one place.
        """
        former = job.id
        if id_ != former:
            for jobs in (self.forgotten, self.tracked, self.ready, self.done):
                if id_ in jobs:
                    jobs[id_].id = jobs[id_].config["id"] = former
            places: tuple[dict[int, Any], ...] = (
                self.forgotten, self.tracked, self.waiting, self.ready, self.done, self.watchers,
                self.joined, self.fences,
            )  # fmt: skip
            for place in places:
                _exchange(place, former, id_)
            for ids in (self.told, self.gathered):
                _exchange_members(ids, former, id_)
        job.id = job.config["id"] = id_
        self.joined.pop(id_, None)
        self.fences.pop(id_, None)
        self.last_id = max(self.last_id, id_)

    def is_candidate(self, entry: ResultEntry) -> bool:
        """Whether this may be the outcome of an adopted job."""
        if entry.id > self.horizon or entry.id in self.tracked or entry.id in self.counted:
            return False
        return self.keep or entry.id not in self.gathered

    def take(self, entry: ResultEntry) -> Job | None:
        """The waiting job of which this is the outcome."""
        fence = self.fences.get(entry.id)
        if fence is not None and entry_order(entry.entry) <= fence:
            return None
        return self.waiting.get(entry.id)

    def is_adopted(self, entry: ResultEntry, origin: Origin, *, retried: bool) -> bool:
        """Whether the job was outstanding at the opening. `retried`: some job was retried since.

        Without retries every such outcome is of an adopted job. With them, one whose submission is later
        than both the opening and the outcome itself had finished before it was retried, so it counts; one
        whose submission lies between the two was retried first, and is not ours.
        """
        if not retried or origin.submitted_ms <= self.opened.opened_ms:
            return True
        return entry_order(entry.entry)[0] <= origin.submitted_ms

    def resolve(self, job: Job) -> None:
        """A job is finished, its fields are filled in."""
        watcher = self.watchers.get(job.id)
        self.tracked[job.id] = job
        if watcher is not None and watcher(job):
            self.settle_in(job)
        else:
            self.ready[job.id] = job
        self.watchers.pop(job.id, None)
        self.waiting.pop(job.id, None)
        self.joined.pop(job.id, None)
        self.fences.pop(job.id, None)

    def record(self, job: Job) -> bool:
        """A ready job is being gathered; whether the callbacks have not seen it yet."""
        if self.ready.get(job.id) is not job or job.id in self.told:
            return False
        # In this order: interrupted in between, it is recorded again, and told then.
        self.done[job.id] = job
        self.gathered.add(job.id)
        self.told.add(job.id)
        return True

    def settle_in(self, job: Job) -> None:
        """A job is gathered by another way than a gather."""
        self.gathered.add(job.id)
        if self.keep:
            self.done.setdefault(job.id, job)
        else:
            self.tracked.pop(job.id, None)

    def reopen(self, job: Job) -> None:
        """A job that was settled in for somebody who has left is ready again, for a gather."""
        # In this order: interrupted in between, it is returned once too often rather than never.
        self.ready[job.id] = job
        self.tracked[job.id] = job
        self.gathered.discard(job.id)
        self.told.discard(job.id)
        self.done.pop(job.id, None)

    def hand_over(self, jobs: Iterable[Job]) -> list[Job]:
        """Those of the jobs that no other gather has returned meanwhile."""
        handed = [job for job in jobs if self.ready.get(job.id) is job]
        for job in handed:
            self.told.discard(job.id)
            del self.ready[job.id]
            if not self.keep:
                self.done.pop(job.id, None)
                self.tracked.pop(job.id, None)
        return handed


def _exchange(place: dict[int, Any], one: int, other: int) -> None:
    found = {other: place.get(one), one: place.get(other)}
    # In this order: interrupted in between, nothing is missing.
    place.update({id_: value for id_, value in found.items() if value is not None})
    for id_, value in found.items():
        if value is None:
            place.pop(id_, None)


def _exchange_members(ids: set[int] | IdSet, one: int, other: int) -> None:
    if (one in ids) != (other in ids):
        gone, come = (one, other) if one in ids else (other, one)
        ids.discard(gone)
        ids.add(come)
