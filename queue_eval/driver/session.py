"""A campaign as one driver works on it, from opening to closing.

::

    evaluator ──▶ CampaignSession ─┬▶ Submitter       configs become jobs on the server         (submission)
                                   ├▶ OutcomeIntake   outcomes come back from the result stream (intake)
                                   │  └ ReportIntake  so do reports, where callbacks want any  (report_intake)
                                   ├▶ Recovery        rolled-back jobs are resubmitted           (recovery)
                                   ├▶ Looker          what is outstanding, and how far it is     (looking)
                                   └▶ PastJobs        what had finished before is read          (past_jobs)

All of them change one `Ledger`, the driver's memory of its jobs, and call one `CampaignCommands`, the
campaign on the server. They follow one rule: what takes time, or may be interrupted, is read from the server
first and without the ledger's lock; then the ledger is changed under its lock.

There are two locks. The sender's lock (`BatchSender.lock`) is held by a whole submission or recovery, and is
taken first. The ledger's lock is held for moments, and no call to the server is made under it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.driver.batch_sender import BatchSender, Placement
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.fill import JobFiller
from queue_eval.driver.intake import OutcomeIntake
from queue_eval.driver.job_source import CampaignSource
from queue_eval.driver.ledger import CompletionHook, Ledger
from queue_eval.driver.looking import Looker
from queue_eval.driver.past_jobs import PastJobs
from queue_eval.driver.recovery import Recovery
from queue_eval.driver.report_intake import ReportIntake
from queue_eval.driver.report_queue import OnReport, ReportQueue
from queue_eval.driver.sources import SourceCheck
from queue_eval.driver.submission import CheckedConfig, Submitter
from queue_eval.driver.submission_log import SubmissionLog
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.job import Job
from queue_eval.model.moves import Opened


class CampaignSession:
    """One driver's session with a campaign: it puts the parts together.

    Guarantees: each outcome of a job of this driver enters the ledger once. Assumes: one thread at a time
    calls `read`.

    `on_report`: called with each report of its jobs while a thread waits; None: no callback wants any.
    """

    def __init__(
        self, queue: CampaignCommands, opened: Opened, run_function: Any, *, reuse: bool, keep: bool = True,
        failure_value: Any = FAIL_RETURN_VALUE, on_report: OnReport | None = None, is_read_only: bool = False,
    ) -> None:  # fmt: skip
        if is_read_only:  # it adopts nothing
            opened = dataclasses.replace(opened, finished=opened.last_id)
        self.queue = queue
        self.is_read_only = is_read_only
        self.ledger = Ledger(opened, keep)
        self.sources: SourceCheck | None = None
        """None for a driver that does not know the run function."""
        self.checkpoints: CheckpointDisk | None = None
        """None for a campaign of an earlier version."""
        self.source = CampaignSource(queue)
        submissions = SubmissionLog()
        sender = BatchSender(queue, self.ledger, reuse=reuse)
        filler = JobFiller(queue, run_function, opened.created_ms, failure_value, self.source)
        self.recovery = Recovery(queue, self.ledger, sender, submissions)
        self._submitter = Submitter(
            queue, self.ledger, sender, self.recovery, submissions, run_function, self.source, reuse=reuse
        )
        reports = None
        if on_report is not None:
            self.ledger.reports = ReportQueue(self.ledger.lock, on_report)
            reports = ReportIntake(queue, self.ledger, self.ledger.reports, filler)
        self._intake = OutcomeIntake(queue, self.ledger, self.recovery, filler, reports)
        self._past = PastJobs(queue, self.ledger, filler, is_current=is_read_only)
        self._looker = Looker(queue, self.ledger, self._intake, filler)

    @property
    def lock(self) -> threading.Condition:
        """The ledger's lock. It is notified when outcomes have arrived."""
        return self.ledger.lock

    # Submission and outcomes --------------------------------------------------------------------------

    def next_id(self) -> int:
        """A provisional id for a job that is not submitted yet: the server may give it another."""
        with self.lock:
            self.ledger.last_id += 1
            return self.ledger.last_id

    def submit(
        self, configs: Sequence[CheckedConfig], placement: Placement, *, job: Job | None = None,
        hook: CompletionHook | None = None,
    ) -> list[Job]:  # fmt: skip
        """Submit configs. Returns their jobs, once the server has acknowledged them.

        `job`: use this one for the only config. `hook` is then called when it is finished.
        """
        return self._submitter.submit(configs, placement, job=job, hook=hook)

    def read(self, block_s: float) -> bool:
        """Take in outcomes, waiting up to `block_s` for the first. Returns whether to read again at once."""
        return self._intake.read(block_s)

    def hand_to_gather(self, job: Job) -> None:
        """Have the next gather return a finished job, since nobody awaits it any more."""
        with self.lock:
            self.ledger.reopen(job)
            self.lock.notify_all()

    def cancel(self, ids: Iterable[int], *, running: bool = True) -> int:
        """Cancel jobs; not those that a worker holds, unless `running`. Returns how many were cancelled."""
        return len(self.queue.cancel(ids, running=running))

    def cancel_outstanding(self, *, running: bool = True) -> int:
        """Cancel all jobs of this driver, submitted or adopted. Returns how many were cancelled."""
        with self.lock:
            ids = list(self.ledger.waiting)
            adopted = self.ledger.adopted
        count = self.cancel(ids, running=running)
        return count + (self.queue.cancel_up_to(self.ledger.horizon, running=running) if adopted else 0)

    def stop(self, ids: Iterable[int]) -> int:
        """Ask jobs to stop early. Returns how many were asked: those that have begun and are not finished."""
        return len(self.queue.stop(ids).asked)

    def stop_outstanding(self) -> int:
        """Ask all jobs of this driver, submitted or adopted. Returns how many were asked."""
        with self.lock:
            ids = set(self.ledger.waiting)
            adopted = self.ledger.adopted
        if adopted:
            horizon = self.ledger.horizon
            ids.update(job for job, _, _ in self.queue.outstanding() if job <= horizon)
        return self.stop(sorted(ids))

    def sweep_checkpoints(self) -> None:
        """Remove checkpoints here that nobody needs any more, since their jobs were cancelled."""
        if self.checkpoints is not None:
            self.checkpoints.sweep(self.queue)

    # Looking ------------------------------------------------------------------------------------------

    def outstanding(self) -> list[Job]:
        """The outstanding jobs of this driver; of a read-only one, all unfinished jobs of the campaign."""
        return self._looker.unfinished() if self.is_read_only else self._looker.outstanding()

    def refresh(self, jobs: Iterable[Job]) -> None:
        """Bring unfinished jobs up to date."""
        self._looker.refresh(jobs)

    # The past, and the end ----------------------------------------------------------------------------

    def history(self) -> list[Job]:
        """Jobs that had finished when the campaign was opened, in that order. They count as gathered."""
        return self._past.history()

    def gathered(self) -> Iterator[Job]:
        """Every job that was gathered, read from the server in the order in which they finished."""
        return self._past.gathered()

    def note_close(self) -> None:
        """Let an unnamed campaign expire, if this driver has gathered all its results."""
        with self.lock:
            gathered = None if self.ledger.outstanding else len(self.ledger.gathered_ids)
        if gathered is not None:
            self.queue.close(gathered)

    def close(self) -> None:
        self._intake.close()
        self.source.close()
        self.queue.link.close()
