"""One batch of jobs: sent to the server, and entered in the ledger.

Submission and recovery both send batches: this is the part that they share.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.driver.ledger import CompletionHook, Ledger
from queue_eval.model.job import Job
from queue_eval.model.moves import Enqueued, EnqueueReply, Submission


class Placement(NamedTuple):
    """How the jobs of one submission are queued."""

    priority: int = 0
    delay_ms: int = 0
    slots: int = 1
    """How many slots each of the jobs takes."""
    time_s: int = 0
    """How many whole seconds each of them asks for; 0: any worker has the time."""


class BatchSender:
    """Sends batches of jobs of one driver.

    Guarantees: the server can tell a repeated call from a new batch, since no two batches bear the same
    number. Assumes: whoever calls a method holds `lock`.
    """

    def __init__(self, queue: CampaignCommands, ledger: Ledger, *, reuse: bool) -> None:
        self._queue = queue
        self._ledger = ledger
        self._reuse = reuse
        self._driver = secrets.token_hex(8)
        self._last_number = 0
        self.lock = threading.RLock()
        """Held during a whole submission or recovery. It is taken before the ledger's lock."""

    def send(self, batch: Sequence[Submission], placement: Placement) -> EnqueueReply:
        # Counted before it is sent: if the reply never comes, no other batch gets the same number.
        self._last_number += 1
        return self._queue.enqueue(
            self._driver, self._last_number, batch, reuse=self._reuse, priority=placement.priority,
            delay_ms=placement.delay_ms, slots=placement.slots, time_s=placement.time_s,
        )  # fmt: skip

    def register(
        self, jobs: Sequence[Job], answers: Sequence[Enqueued], fence: str | None,
        hook: CompletionHook | None = None,
    ) -> None:  # fmt: skip
        """Enter jobs in the ledger, with the server's answers for them. `fence`: see `EnqueueReply`."""
        joined = [
            job for job, answer in zip(jobs, answers, strict=True)
            if answer.entry is not None or answer.id <= self._ledger.horizon
        ]  # fmt: skip
        opened_ms = self._ledger.opened.opened_ms
        retried = {job.id for job in joined if (job.submitted_ms or 0) > opened_ms}
        if retried and not self._ledger.has_new_retries(self._queue.retried()):
            retried.clear()  # The later times come from a server clock that was set back.
        with self._ledger.lock:
            for job, answer in zip(jobs, answers, strict=True):
                if hook is not None:
                    self._ledger.completion_hooks[job.id] = hook
                self._ledger.add(job, answer.entry, fence, job_was_retried=job.id in retried)
