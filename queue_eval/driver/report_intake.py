"""How reports of running jobs come from the server into a driver's queue, for its callbacks.

::

    a new epoch: every job that has reports ──┐
    hints: jobs that have new reports ────────┼▶ which are of this driver? ──▶ read ──▶ ReportQueue (locked)
    outcomes: jobs that have finished ────────┘

An outcome is held back until the reports of its job are delivered, so that no callback hears of the end of a
job before it has heard its reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.places import origins_of
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.driver.fill import JobFiller
from queue_eval.driver.ledger import Ledger
from queue_eval.driver.report_queue import ReportQueue
from queue_eval.model.job import Job


class ReportIntake:
    """Reads reports of a driver's jobs, and adds them to its queue.

    Guarantees: every report of every job that a gather of this driver will return is added once, also of
    jobs that it has adopted or joined, and also those from before its life. Those of an adopted or joined job
    come in their order, so that a rule that has to hear all of them can be resumed. None is added that was
    read before the link's epoch changed. Assumes: one thread at a time calls it, but for `take_before`.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, waiting: ReportQueue, filler: JobFiller
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._waiting = waiting
        self._filler = filler
        self._unread: dict[int, None] = {}
        """Jobs that may have new reports, the oldest hint first."""
        self._later: dict[int, None] = {}
        """Of these too. They are of nobody known here, but a submission is on its way."""
        self._listed_epoch: int | None = None
        self.hints = ""
        """The cursor of the hints."""

    @property
    def has_work(self) -> bool:
        """Whether there is something to be read or delivered, so that nobody may block now."""
        return bool(self._unread) or not self._waiting.is_empty

    def list_in_new_epoch(self, epoch: int) -> None:
        """Note all jobs that have reports, unless that was done in this epoch."""
        if epoch == self._listed_epoch:
            return
        self.hints = self._queue.newest_hint()  # before the listing, which then misses nothing
        self._list()
        self._listed_epoch = epoch

    def hear(self) -> None:
        """Note the jobs of which hints tell."""
        ids, self.hints = self._queue.reported_after(self.hints)
        if ids is None:
            self._list()
        else:
            self._unread |= dict.fromkeys(sorted(ids))

    def _list(self) -> None:
        for page in pages(self._queue.reporting_ids(), PAGE):
            self._unread |= dict.fromkeys(self._own(sorted(page)))

    def take_unread(self, epoch: int) -> None:
        """Read the reports of jobs that were noted, as many as the queue takes."""
        with self._ledger.lock:
            is_submitting = self._ledger.submitting
        if not is_submitting:
            self._unread |= self._later
            self._later.clear()
        for page in pages(list(self._unread), PAGE):
            own = self._own(page)
            for job_id in page:
                if self._waiting.is_full:
                    return
                if job_id in own:
                    self._take(own[job_id], epoch)
                elif is_submitting:
                    self._later[job_id] = None
                del self._unread[job_id]

    def take_before(
        self, entries: Sequence[ResultEntry], epoch: int, *, holds_back: bool
    ) -> Sequence[ResultEntry]:
        """Read the reports of jobs that have finished with these entries.

        Returns the entries before the first whose job has reports that are not delivered yet; all of them
        without `holds_back`, and in a callback, which would wait for itself. Several threads may call it.
        """
        reporting = {entry.id: entry for entry in entries if entry.reports}
        if not reporting and self._waiting.is_empty:
            return entries
        holds_back = holds_back and not self._waiting.is_delivered_here
        own = self._own(list(reporting), reporting)
        read: set[int] = set()
        for job_id, job in own.items():
            if holds_back and self._waiting.is_full:
                break
            self._take(job, epoch)
            read.add(job_id)
        if not holds_back:
            return entries
        with self._ledger.lock:
            for position, entry in enumerate(entries):
                finished = own.get(entry.id) or self._ledger.waiting.get(entry.id)
                if finished is None:
                    continue
                is_read = entry.id in read or entry.id not in own
                if not is_read or self._waiting.holds(finished):
                    return entries[:position]
        return entries

    def _take(self, job: Job, epoch: int) -> None:
        """Read the reports of a job that are new, and add them."""
        while True:
            with self._ledger.lock:
                job_id, after = job.id, self._waiting.after(job.id, epoch)
            found = self._queue.reports_of(job_id, after)
            with self._ledger.lock:
                # Else the server may have lost the job since, and have given its id to another one.
                if not found or self._queue.link.epoch != epoch or job.id != job_id:
                    return
                if self._waiting.after(job_id, epoch) == after:  # else another thread has read the same
                    self._waiting.add(job, found, epoch)
                    return

    def _own(self, ids: Sequence[int], entries: dict[int, ResultEntry] | None = None) -> dict[int, Job]:
        """The unfinished jobs of this driver among these, and those that have finished with `entries`."""
        ledger, entries = self._ledger, entries or {}
        with ledger.lock:
            own = {i: job for i in ids if (job := ledger.waiting.get(i) or ledger.adopted_jobs.get(i))}
            unknown = [i for i in ids if i not in own and ledger.is_candidate(i)]
            has_adopted = ledger.adopted > 0
        if unknown and has_adopted:
            own |= self._adopt(unknown, entries)
        return own

    def _adopt(self, ids: Sequence[int], entries: dict[int, ResultEntry]) -> dict[int, Job]:
        """Make the jobs of those among `ids` that this driver has adopted."""
        ledger = self._ledger
        # What had finished before the opening was not adopted, and may be a million jobs.
        index = dict(zip(ids, self._queue.index_of(ids), strict=True))
        ids = [job_id for job_id in ids if index[job_id] is None or job_id in entries]
        if not ids:
            return {}
        origins = origins_of(self._queue, ids)
        has_retries = ledger.has_new_retries(self._queue.retried())
        adopted: dict[int, Job] = {}
        with ledger.lock:
            for job_id, origin in zip(ids, origins, strict=True):
                entry = entries.get(job_id)
                if origin is None or not ledger.is_candidate(job_id):
                    continue
                if entry is not None:
                    is_adopted = ledger.is_adopted(entry, origin, any_retried=has_retries)
                else:
                    # A job that was retried since the opening has had its outcome as an adopted one.
                    is_retried = has_retries and origin.submitted_ms > ledger.opened.opened_ms
                    is_adopted = not is_retried
                if is_adopted:
                    if job_id not in ledger.adopted_jobs:
                        job = self._filler.begin(job_id, *origin)
                        ledger.adopted_jobs[job_id] = job
                    adopted[job_id] = ledger.adopted_jobs[job_id]
        return adopted
