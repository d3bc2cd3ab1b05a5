"""The jobs of one driver, and how far each has come. In memory only: a ledger knows no connection.

::

    submitted ──▶ waiting ──▶ ready ──▶ gathered
    adopted ────────────────▶ ready ──▶ gathered

A submitted job is one of this driver. An adopted job was outstanding when the campaign was opened, and only
that there is one more is known until its outcome arrives, or the user asks to see it.

Adopted jobs are listed only for that, since it costs a million reads for a million jobs. They are exactly
`opened.outstanding` jobs with ids up to `horizon`, and each has one outcome in the result stream after the
tail of the opening. When a submission joins an adopted job, that counts as submitted from then on.

Every change may be interrupted between any two steps, and is then made again: the cursor moves last, so the
same outcome is read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from queue_eval.campaign.places import Origin
from queue_eval.campaign.result_stream import ResultEntry, entry_order
from queue_eval.driver.id_set import IdSet
from queue_eval.driver.report_queue import ReportQueue
from queue_eval.model.job import Job
from queue_eval.model.moves import Opened

Order = tuple[int, int]
"""The place of an entry in the result stream (see `entry_order`)."""

CompletionHook = Callable[[Job], bool]
"""Called when a job is finished. Returns whether somebody still awaits it: then no gather returns it."""


@dataclass
class Ledger:
    """The jobs of one driver. Assumes: the caller holds `lock` for every look and every change."""

    opened: Opened
    keep: bool = True
    """Whether jobs that were gathered stay in memory."""
    lock: threading.Condition = field(default_factory=threading.Condition)
    """It is notified when outcomes have arrived."""
    gathered_ids: IdSet = field(default_factory=IdSet)
    """Ids of all jobs that were gathered or given by history, also of those that are not kept."""
    tracked: dict[int, Job] = field(default_factory=dict)
    """Every job that this driver has an object for and keeps, by id."""
    adopted_jobs: dict[int, Job] = field(default_factory=dict)
    """Adopted jobs that were shown to the user before their outcomes arrived, by id."""
    waiting: dict[int, Job] = field(default_factory=dict)
    """Submitted jobs whose outcome is not known here."""
    joined: dict[int, str] = field(default_factory=dict)
    """Of the waiting jobs, those whose outcome the server has already: id -> its entry."""
    ready: OrderedDict[int, Job] = field(default_factory=OrderedDict)
    """Finished jobs that were not gathered, in the order in which they finished.

    `as_completed` takes them from the front, one at a time. To find the first item of a plain dict, Python
    steps over all that were taken from its front before.
    """
    announced: set[int] = field(default_factory=set)
    """Of the ready jobs, those that the callbacks have seen."""
    gathered_jobs: dict[int, Job] = field(default_factory=dict)
    """Jobs that were gathered or given by history, and that are kept, by id."""
    completion_hooks: dict[int, CompletionHook] = field(default_factory=dict)
    """What to call when a job that is awaited by itself is finished."""
    adopted_resolved: IdSet = field(default_factory=IdSet)
    """Ids of adopted jobs that are no longer outstanding as adopted: finished, joined or rolled back."""
    ignore_until: dict[int, Order] = field(default_factory=dict)
    """For waiting jobs that were retried: the entry up to which outcomes are out of date."""
    being_resubmitted: dict[int, Job] = field(default_factory=dict)
    """Rolled-back jobs under the ids that they have until they are resubmitted; also those not kept."""
    seen_during_submit: dict[int, str] = field(default_factory=dict)
    """Outcomes that were read during a submission, and may turn out to be of its jobs: id -> entry."""
    submitting: bool = False
    """Whether a submission is on its way."""
    reports: ReportQueue | None = None
    """Reports on their way to the callbacks; None when no callback wants any."""

    def __post_init__(self) -> None:
        self.cursor = self.opened.tail
        """The entry up to which outcomes have been taken in."""
        self.tail = entry_order(self.opened.tail)
        self.horizon = self.opened.last_id
        self.last_id = self.opened.last_id
        """The highest id known here."""

    @property
    def adopted(self) -> int:
        """How many adopted jobs are not finished, as far as is known here, and were not joined."""
        return max(0, self.opened.outstanding - len(self.adopted_resolved))

    @property
    def unfinished(self) -> int:
        """How many jobs are not finished, as far as is known here."""
        return len(self.waiting) + self.adopted

    @property
    def outstanding(self) -> int:
        """How many jobs of this driver no gather has returned, whether they are finished or not.

        `opened.outstanding` counts those of the campaign that are not finished.
        """
        return self.unfinished + len(self.ready)

    def has_new_retries(self, retry_count: int) -> bool:
        """Whether the user has retried jobs since the opening.

        `retry_count`: how many finished jobs the user had ever retried, as of now.

        It needs no lock, since the opening never changes.
        """
        return retry_count != self.opened.retried

    def add(self, job: Job, entry: str | None, ignore_until: str | None, *, job_was_retried: bool) -> None:
        """Add a job whose id the server has just given.

        `entry`: that of its outcome, if it has joined a finished job. `ignore_until`: the entry up to which
        its outcomes are out of date. `job_was_retried`: the job was retried after the opening.
        """
        finishes_later = entry is None or entry_order(entry) > self.tail
        if job.id <= self.horizon and not job_was_retried and finishes_later:
            # It was outstanding at the opening. Its outcome, if not read yet, now belongs to this job.
            self.adopted_resolved.add(job.id)
        if entry is None and ignore_until is not None:
            self.ignore_until[job.id] = entry_order(ignore_until)
        if entry is None and job.id in self.seen_during_submit:
            # Another thread has read the outcome between the server's reply and now.
            seen = self.seen_during_submit[job.id]
            if ignore_until is None or entry_order(seen) > entry_order(ignore_until):
                entry = seen
        if entry is not None:
            self.joined[job.id] = entry
        self.waiting[job.id] = job
        self.tracked[job.id] = job
        self.adopted_jobs.pop(job.id, None)
        self.ready.pop(job.id, None)
        self.announced.discard(job.id)
        self.last_id = max(self.last_id, job.id)

    def renumber(self, job: Job, new_id: int) -> None:
        """Give a rolled-back job the id under which the server has it again.

        If another job has had that id, that one was rolled back, too. Until it is renumbered itself, it
        takes the former id of `job`, so that no two jobs are ever in one place.
        """
        former = job.id
        if new_id != former:
            for jobs in (self.being_resubmitted, self.tracked, self.ready, self.gathered_jobs):
                if new_id in jobs:
                    jobs[new_id].id = jobs[new_id].config["id"] = former
            places: tuple[dict[int, Any], ...] = (
                self.being_resubmitted, self.tracked, self.waiting, self.ready, self.gathered_jobs,
                self.completion_hooks, self.joined, self.ignore_until,
            )  # fmt: skip
            for place in places:
                _exchange(place, former, new_id)
            for ids in (self.announced, self.gathered_ids):
                _exchange_members(ids, former, new_id)
        job.id = job.config["id"] = new_id
        if self.reports is not None:
            self.reports.forget(new_id)
        self.joined.pop(new_id, None)
        self.ignore_until.pop(new_id, None)
        self.last_id = max(self.last_id, new_id)

    def is_candidate(self, job_id: int) -> bool:
        """Whether this may be an adopted job that is outstanding as such."""
        if job_id > self.horizon or job_id in self.tracked or job_id in self.adopted_resolved:
            return False
        return self.keep or job_id not in self.gathered_ids

    def waiting_job_of(self, entry: ResultEntry) -> Job | None:
        """The waiting job of which this is the outcome; None when there is none, or it is out of date."""
        ignore_until = self.ignore_until.get(entry.id)
        if ignore_until is not None and entry_order(entry.entry) <= ignore_until:
            return None
        return self.waiting.get(entry.id)

    def is_adopted(self, entry: ResultEntry, origin: Origin, *, any_retried: bool) -> bool:
        """Whether an outcome is that of an adopted job.

        `any_retried`: some job was retried since the opening. Without retries, every candidate is one.
        A retry gives its job a new time of submission, which tells:

        ====================================  ===========================================  ==========
        time of submission                    what has happened                            is adopted
        ====================================  ===========================================  ==========
        not after the opening                 this job was not retried since               yes
        after the opening and the outcome     outstanding at the opening, it finished      yes
                                              with this outcome, and was retried then
        between the opening and the outcome   finished before the opening, it was retried  no
                                              then, and finished again with this outcome
        ====================================  ===========================================  ==========
        """
        if not any_retried or origin.submitted_ms <= self.opened.opened_ms:
            return True
        return entry_order(entry.entry)[0] <= origin.submitted_ms

    def mark_finished(self, job: Job) -> None:
        """A job is finished, and its outcome was written into it. It becomes ready, unless it is awaited."""
        hook = self.completion_hooks.get(job.id)
        if self.reports is not None:
            self.reports.close_job(job)
        self.tracked[job.id] = job
        if hook is not None and hook(job):
            self.count_as_gathered(job)
        else:
            self.ready[job.id] = job
        self.completion_hooks.pop(job.id, None)
        self.adopted_jobs.pop(job.id, None)
        self.waiting.pop(job.id, None)
        self.joined.pop(job.id, None)
        self.ignore_until.pop(job.id, None)

    def mark_gathered(self, job: Job) -> bool:
        """A ready job is being gathered. Returns whether the callbacks have not seen it yet."""
        if self.ready.get(job.id) is not job or job.id in self.announced:
            return False
        # In this order: interrupted in between, it is marked again, and announced then.
        self.gathered_jobs[job.id] = job
        self.gathered_ids.add(job.id)
        self.announced.add(job.id)
        return True

    def count_as_gathered(self, job: Job) -> None:
        """A job counts as gathered without a gather: it was awaited, or given by history."""
        self.gathered_ids.add(job.id)
        if self.keep:
            self.gathered_jobs.setdefault(job.id, job)
        else:
            self.tracked.pop(job.id, None)

    def reopen(self, job: Job) -> None:
        """Make a job ready again, for a gather: who awaited it has left after it counted as gathered."""
        # In this order: interrupted in between, it is returned once too often rather than never.
        self.ready[job.id] = job
        self.tracked[job.id] = job
        self.gathered_ids.discard(job.id)
        self.announced.discard(job.id)
        self.gathered_jobs.pop(job.id, None)

    def take_from_ready(self, jobs: Iterable[Job]) -> list[Job]:
        """Take jobs out of the ready ones. Returns those that no other gather has returned meanwhile."""
        taken = [job for job in jobs if self.ready.get(job.id) is job]
        for job in taken:
            self.announced.discard(job.id)
            del self.ready[job.id]
            if not self.keep:
                self.gathered_jobs.pop(job.id, None)
                self.tracked.pop(job.id, None)
        return taken


def _exchange(place: dict[int, Any], first: int, second: int) -> None:
    """Exchange what two ids have in one place; either may have nothing there."""
    exchanged = {second: place.get(first), first: place.get(second)}
    # In this order: interrupted in between, nothing is missing.
    place.update({job_id: value for job_id, value in exchanged.items() if value is not None})
    for job_id, value in exchanged.items():
        if value is None:
            place.pop(job_id, None)


def _exchange_members(ids: set[int] | IdSet, first: int, second: int) -> None:
    """Exchange the membership of two ids."""
    if (first in ids) != (second in ids):
        leaving, entering = (first, second) if first in ids else (second, first)
        ids.discard(leaving)
        ids.add(entering)
