"""How outcomes come from the server into a driver's ledger.

::

    result stream, after the cursor ──┐                 (with on_report, after the reports of their jobs)
    entries of joined outcomes ───────┴▶ look up: configs of unknown ids, hosts, retries   (no lock is held)
                                          └▶ has the epoch changed? ──no──▶ ledger, then its cursor   (locked)
"""

from __future__ import annotations

from collections.abc import Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import Portion
from queue_eval.campaign.places import Origin, origins_of
from queue_eval.campaign.result_stream import ResultEntry, ResultReader, entry_order, lost_entry
from queue_eval.driver.fill import JobFiller
from queue_eval.driver.ledger import Ledger
from queue_eval.driver.recovery import Recovery
from queue_eval.driver.report_intake import ReportIntake

MAX_BLOCK_S = 1.0
"""Longest wait for outcomes in one read. Chores are done, and an interruption is noticed, between reads."""


class OutcomeIntake:
    """Reads outcomes and enters them in the ledger.

    Guarantees: each outcome of a job of this driver enters the ledger once. None enters that was read before
    the link's epoch changed: the server may have lost its job since, and given the id to another one.
    Assumes: one thread at a time calls `read`.

    `reports`: for a driver whose callbacks want reports.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, recovery: Recovery, filler: JobFiller,
        reports: ReportIntake | None,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._ledger = ledger
        self._recovery = recovery
        self._filler = filler
        self._reports = reports
        self._reader = ResultReader(
            queue.link, queue.keys.results, ledger.opened.tail, max_block_s=MAX_BLOCK_S,
            hints=None if reports is None else queue.keys.reported,
        )  # fmt: skip
        self._is_held_back = False
        """Whether outcomes were read and not taken in, since reports of their jobs are not delivered yet."""

    def read(self, block_s: float) -> bool:
        """Take in outcomes, waiting up to `block_s` for the first. Returns whether to read again at once.

        With `reports`, so do reports, and one of them ends the wait. After a change of the epoch, verifies
        first, and takes in nothing.
        """
        epoch = self._queue.link.epoch
        if not self._recovery.is_verified(epoch):
            return self._recovery.verify_unless_submitting(block_s)
        self._is_held_back = False
        if self._reports is not None:
            self._reports.list_in_new_epoch(epoch)
            self._reader.hint_cursor = self._reports.hints
        has_work = self._reports is not None and self._reports.has_work
        if self._take_joined(epoch, holds_back=True) or has_work:
            block_s = 0.0  # The joined outcomes may be all that the caller waits for.
        # The ledger's cursor counts, not the reader's: what was read and not taken in is read again.
        self._reader.cursor = self._ledger.cursor
        entries: Sequence[ResultEntry] = self._reader.read(block_s)
        if self._reports is not None:
            if self._reader.has_hints:
                self._reports.hear()
            entries = self._after_reports(entries, epoch, holds_back=True)
            self._reports.take_unread(epoch)
        if entries:
            self._take(entries, epoch, entries[-1].entry)
        return self._reader.may_have_more or self._is_held_back or self._queue.link.epoch != epoch

    def catch_up(self) -> None:
        """Take in what has finished by now, whether or not another thread reads. Waits for nothing."""
        while True:
            epoch = self._queue.link.epoch
            if not self._recovery.is_verified(epoch):
                self._recovery.verify_unless_submitting(MAX_BLOCK_S)
                continue
            self._take_joined(epoch, holds_back=False)
            with self._ledger.lock:
                cursor = self._ledger.cursor
            portion = Portion()
            while entries := self._queue.read_after(cursor, portion.count):
                cursor = entries[-1].entry
                if not self._take(self._after_reports(entries, epoch, holds_back=False), epoch, cursor):
                    break
                if len(entries) < portion.count:
                    return
                portion.adapt(len(entries), sum(len(entry.body) for entry in entries))
            else:
                if self._queue.link.epoch == epoch:
                    return

    def close(self) -> None:
        self._reader.close()

    def _take_joined(self, epoch: int, *, holds_back: bool) -> bool:
        """Take in the outcomes that joined jobs already have. Returns whether there were joined jobs."""
        with self._ledger.lock:
            joined = sorted(self._ledger.joined.items(), key=lambda item: entry_order(item[1]))
        portion = Portion()
        taken = 0
        while page := joined[taken : taken + portion.count]:
            found = self._queue.entries([entry for _, entry in page])
            free = self._after_reports(found, epoch, holds_back=holds_back)
            if not self._take(free, epoch):
                break
            taken += len(page)
            portion.adapt(len(page), sum(len(entry.body) for entry in found))
            found_names = {entry.entry for entry in found}
            self._give_up([(job_id, entry) for job_id, entry in page if entry not in found_names])
            if len(free) < len(found):
                break
        return bool(joined)

    def _after_reports(
        self, entries: Sequence[ResultEntry], epoch: int, *, holds_back: bool
    ) -> Sequence[ResultEntry]:
        """The entries that may be taken in now. With `holds_back`, no job's that has a report which is not
        delivered."""
        if self._reports is None or not entries:
            return entries
        free = self._reports.take_before(entries, epoch, holds_back=holds_back)
        if len(free) < len(entries):
            self._is_held_back = True
        return free

    def _give_up(self, missing: Sequence[tuple[int, str]]) -> None:
        """End the wait for jobs that the index calls finished, but whose outcome is not in the stream."""
        if not missing:
            return
        with self._ledger.lock:
            for job_id, entry in missing:
                job = self._ledger.waiting.get(job_id)
                # Another thread may have submitted the job again, or joined a later outcome, meanwhile.
                if self._ledger.joined.get(job_id) == entry and job is not None:
                    self._filler.fill(job, lost_entry(job_id, entry))
                    self._ledger.mark_finished(job)
            self._ledger.lock.notify_all()

    def _take(self, entries: Sequence[ResultEntry], epoch: int, cursor: str | None = None) -> bool:
        """Take in entries that were read in `epoch`, then move the ledger's cursor to `cursor`.

        Returns whether they were taken in: not if the epoch has changed since.
        """
        with self._ledger.lock:
            unknown = [entry for entry in entries if self._ledger.is_candidate(entry.id)]
            known = [entry for entry in entries if entry.id in self._ledger.waiting]
        origins = self._origins([entry.id for entry in unknown])
        has_retries = bool(unknown) and self._ledger.has_new_retries(self._queue.retried())
        self._filler.learn_hosts((*unknown, *known))
        with self._ledger.lock:
            if self._queue.link.epoch != epoch:
                return False
            for entry in entries:
                self._apply(entry, origins.get(entry.id), has_retries=has_retries)
                if self._ledger.submitting:
                    self._ledger.seen_during_submit[entry.id] = entry.entry
            if cursor is not None:
                self._ledger.cursor = cursor
            self._ledger.lock.notify_all()
        return True

    def _apply(self, entry: ResultEntry, origin: Origin | None, *, has_retries: bool) -> None:
        ledger = self._ledger
        job = ledger.waiting_job_of(entry)
        if job is not None:
            self._filler.fill(job, entry)
            ledger.mark_finished(job)
        elif origin is not None and ledger.is_candidate(entry.id):
            if ledger.is_adopted(entry, origin, any_retried=has_retries):
                job = ledger.adopted_jobs.get(entry.id)
                if job is None:
                    job = self._filler.rebuild(entry, *origin)
                else:
                    self._filler.fill(job, entry)
                ledger.mark_finished(job)
                ledger.adopted_resolved.add(entry.id)
        elif entry.id in ledger.ignore_until and entry.id <= ledger.horizon:
            # An outcome from before a retry that this driver has joined. If the job was adopted until then,
            # this was its outcome as an adopted one.
            submitted_ms = ledger.tracked[entry.id].submitted_ms
            if submitted_ms is not None and entry.finished_ms <= submitted_ms:
                ledger.adopted_resolved.add(entry.id)

    def _origins(self, ids: Sequence[int]) -> dict[int, Origin]:
        found = zip(ids, origins_of(self._queue, ids), strict=True)
        return {job_id: origin for job_id, origin in found if origin is not None}
