"""Recovery of a driver after a rollback: the server came back without its last acknowledged writes.

A power cut under ``appendfsync everysec`` loses about a second of writes, a failover loses what was not
replicated. Jobs of this driver are gone then, and the server gives their ids to other jobs. So whenever the
link's epoch has changed, the driver looks whether its last submissions are still there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import PAGE
from queue_eval.campaign.result_stream import entry_order
from queue_eval.driver.batch_sender import BatchSender
from queue_eval.driver.ledger import Ledger
from queue_eval.driver.submission_log import Sent, SubmissionLog, groups
from queue_eval.errors import DamagedError
from queue_eval.foreign_text import plain
from queue_eval.model.job import Job
from queue_eval.model.moves import Enqueued, Opened

log = plain(logging.getLogger(__name__))


class RecoveryState(Enum):
    VERIFIED = "verified"
    """The server has, in this epoch, all that it has acknowledged, or damaged keys hide whether it has."""
    UNVERIFIED = "unverified"
    """The epoch has changed: the server may have rolled back."""
    RESUBMITTING = "resubmitting"
    """The epoch has changed, and rolled-back jobs that an earlier look has found may still be missing."""


class Recovery:
    """Resubmits rolled-back jobs of one driver: those that the server had acknowledged and has lost.

    ::

                           the link's epoch changes
             VERIFIED ─────────────────────────────────▶ UNVERIFIED ◀─┐ the epoch changes meanwhile
              ▲    ▲                                      │ verify() ─┘
              │    └──── no job is missing ───────────────┤
              │                                           │ jobs are missing
              │                                           ▼
              └──── all were resubmitted ──────────── RESUBMITTING ◀─┐ the epoch changes meanwhile,
                                                          verify() ──┘ or verify() is interrupted

    In UNVERIFIED the jobs were acknowledged in the order of their times, and a rollback takes away the last
    ones. So one job that is still there vouches for all before it, and mostly one lookup is enough. In
    RESUBMITTING some jobs have been resubmitted, and so have later times than the others. They do not vouch
    for the others, and every remembered job is looked up.

    Damaged keys of the campaign hide whether jobs are missing. `verify` then warns, and ends in VERIFIED
    nevertheless, so that the driver can go on. It looks again when the epoch has changed.

    Guarantees: in VERIFIED, keys undamaged, every remembered job is on the server, under an id that no other
    job of this driver has. `verify` may be interrupted at any step, and called again. Assumes: whoever calls
    `verify` holds the sender's lock.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, sender: BatchSender, submissions: SubmissionLog
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._sender = sender
        self._submissions = submissions
        self._verified_epoch = queue.link.epoch
        self._is_complete = True
        """Whether every rolled-back job that was found is on the server again."""

    @property
    def state(self) -> RecoveryState:
        if self.is_verified(self._queue.link.epoch):
            return RecoveryState.VERIFIED
        return RecoveryState.UNVERIFIED if self._is_complete else RecoveryState.RESUBMITTING

    def is_verified(self, epoch: int) -> bool:
        """Whether the last `verify` was in this epoch of the link."""
        return epoch == self._verified_epoch

    def verify_unless_submitting(self, timeout_s: float) -> bool:
        """`verify`, unless another thread is submitting for all of `timeout_s`: that thread verifies itself.

        Returns whether it was done.
        """
        if not self._sender.lock.acquire(timeout=timeout_s):
            return False
        try:
            self.verify()
        finally:
            self._sender.lock.release()
        return True

    def verify(self) -> None:
        """Look for rolled-back jobs, and resubmit them. If the epoch changes meanwhile, so does `state`."""
        epoch = self._queue.link.epoch
        try:
            epoch = self._resubmit_rolled_back()
        except DamagedError as error:
            log.warning("cannot see whether the server has gone back in time: %s", error)
        self._verified_epoch = epoch

    def _resubmit_rolled_back(self) -> int:
        """Returns the epoch from before the look: if it has changed since, another rollback is possible."""
        is_registered = self._queue.is_registered()
        # The epoch is taken here, with as few calls after it as possible. Each lost reply changes the epoch,
        # and where replies are lost all the time, verification must still succeed in the end.
        epoch = self._queue.link.epoch
        rolled_back = self._submissions.find_rolled_back(self._queue, in_order=self._is_complete)
        standing = self._queue.standing()
        if rolled_back:
            self._is_complete = False
            log.warning(
                "the server has gone back in time (a power cut, a failover): %d jobs of campaign %s are "
                "submitted again, from job %d on", len(rolled_back), self._queue.campaign,
                rolled_back[0].job.id,
            )  # fmt: skip
        with self._ledger.lock:
            self._rewind_ledger(rolled_back, standing)
        for batch in groups(rolled_back, PAGE):
            self._resubmit(batch)
        with self._ledger.lock:
            self._ledger.being_resubmitted.clear()
        # All that was missing is resubmitted. Some may be gone again if the epoch has changed meanwhile.
        self._is_complete = self._is_complete or self._queue.link.epoch == epoch
        self._refresh_joined()
        if not is_registered:
            self._queue.register(standing.created_ms)
        return epoch

    def _rewind_ledger(self, rolled_back: Sequence[Sent], standing: Opened) -> None:
        """Take the ledger back to what the server still has. The caller holds the ledger's lock."""
        ledger = self._ledger
        ledger.being_resubmitted = {sent.job.id: sent.job for sent in rolled_back}
        for missing_id in range(standing.last_id + 1, ledger.horizon + 1):
            ledger.adopted_resolved.add(missing_id)  # An adopted job that is gone: no outcome will ever come.
            ledger.adopted_jobs.pop(missing_id, None)
        if rolled_back or entry_order(standing.tail) < entry_order(ledger.cursor):
            # Entries of the stream that were added after the rollback may have lower entry ids than those
            # that it took away, and so lie before the cursor. Nobody knows to where the stream was taken
            # back: its tail may be such an entry. So all since the opening is read again. An outcome that is
            # known here is not taken in twice.
            ledger.cursor = min(standing.tail, ledger.opened.tail, key=entry_order)
            ledger.seen_during_submit.clear()

    def _resubmit(self, batch: Sequence[Sent]) -> None:
        reply = self._sender.send([sent.submission for sent in batch], batch[0].placement)
        waiting: list[tuple[Job, Enqueued]] = []
        with self._ledger.lock:
            for sent, answer in zip(batch, reply.jobs, strict=True):
                self._ledger.renumber(sent.job, answer.id)
                sent.job.submitted_ms = answer.submitted_ms
                if sent.job.status != Job.DONE:
                    waiting.append((sent.job, answer))
                elif answer.id <= self._ledger.horizon:
                    # The job has its outcome. The second one must not count as that of an adopted job.
                    self._ledger.adopted_resolved.add(answer.id)
        jobs, answers = [job for job, _ in waiting], [answer for _, answer in waiting]
        self._sender.register(jobs, answers, reply.fence)

    def _refresh_joined(self) -> None:
        """Look again at jobs that were joined as finished: a rollback may have made them unfinished."""
        with self._ledger.lock:
            joined = list(self._ledger.joined.items())
        index = self._queue.index_of([job_id for job_id, _ in joined])
        with self._ledger.lock:
            for (job_id, entry), current in zip(joined, index, strict=True):
                if self._ledger.joined.get(job_id) == entry and current != entry:
                    del self._ledger.joined[job_id]
                    if current is not None:
                        self._ledger.joined[job_id] = current
