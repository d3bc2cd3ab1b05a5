"""A driver's recent submissions, and which of them a rollback of the server took away.

A rollback takes away the server's last writes, from the last one backwards. So one job that is still there
vouches for all jobs that were acknowledged before it. `recovery` says when and why this is looked at.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import pages
from queue_eval.driver.batch_sender import Placement
from queue_eval.model.codec import decode
from queue_eval.model.job import Job
from queue_eval.model.moves import Submission

MAX_REMEMBERED_JOBS = 20_000
"""How many jobs are remembered, the newest ones. Whole batches are forgotten, so up to one batch more is."""

REMEMBER_FINISHED_MS = 60_000
"""A finished job is remembered for this long: no server rolls back further."""

_LOOKUP_PAGE = 500
"""Jobs that are looked up in one call."""


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A job that was submitted, and all that it takes to submit it again."""

    job: Job
    submission: Submission
    placement: Placement


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Jobs that were sent together, in columns.

    Each column is one tuple of plain values. Thousands of small objects that live long and then die would
    start Python's garbage collector several times as often, and each time it scans all jobs.
    """

    jobs: tuple[Job, ...]
    configs: tuple[str, ...]
    fingerprints: tuple[bytes, ...]
    occurrences: tuple[int, ...]
    tags: tuple[str, ...]
    placement: Placement
    newest_ms: float
    """When the last of them was submitted."""

    def sent_jobs(self) -> Iterator[Sent]:
        columns = zip(self.configs, self.fingerprints, self.occurrences, self.tags, strict=True)
        for job, submission in zip(self.jobs, columns, strict=True):
            yield Sent(job, Submission(*submission), self.placement)

    def is_past(self, end_ms: float) -> bool:
        """Whether all its jobs were submitted before `end_ms`, and are finished."""
        return self.newest_ms < end_ms and all(job.status == Job.DONE for job in self.jobs)


class SubmissionLog:
    """Remembers recent submissions, so that they can be sent again after the server lost acknowledged writes.

    Guarantees: an unfinished job is remembered, unless `MAX_REMEMBERED_JOBS` were submitted after it.
    Assumes: one thread at a time.
    """

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._job_count = 0

    def add(
        self, jobs: Sequence[Job], submissions: Sequence[Submission], placement: Placement
    ) -> None:
        """Remember jobs that the server has acknowledged."""
        if not jobs:
            return
        configs, fingerprints, occurrences, tags = zip(*submissions, strict=True)
        newest_ms = max(job.submitted_ms or 0 for job in jobs)
        batch = _Batch(tuple(jobs), configs, fingerprints, occurrences, tags, placement, newest_ms)
        self._batches.append(batch)
        self._job_count += len(jobs)
        self._forget_old(newest_ms - REMEMBER_FINISHED_MS)

    def _forget_old(self, end_ms: float) -> None:
        oldest = self._batches[0]
        while self._job_count - len(oldest.jobs) >= MAX_REMEMBERED_JOBS or oldest.is_past(end_ms):
            self._job_count -= len(oldest.jobs)
            self._batches.popleft()
            oldest = self._batches[0]

    def find_rolled_back(self, queue: CampaignCommands, *, in_order: bool = True) -> list[Sent]:
        """The jobs that the server does not have any more, in the order of their submission.

        `in_order`: the server acknowledged the jobs in the order of their times. If only some rolled-back
        jobs were resubmitted, these have later times than the others, though the others may still be
        missing. Then no job vouches for another, and each is looked up.
        """
        remembered = (sent for batch in self._batches for sent in batch.sent_jobs())
        newest_first = sorted(remembered, key=lambda sent: (_submitted_ms(sent), sent.job.id), reverse=True)
        rolled_back: list[Sent] = []
        vouched_ms = -1
        retried = functools.cache(queue.retried)
        for page in _growing_pages(newest_first):
            if all(_submitted_ms(sent) < vouched_ms for sent in page):
                break
            origins = queue.configs_of([sent.job.id for sent in page])
            for sent, origin in zip(page, origins, strict=True):
                if origin is not None and _is_same(sent, *origin, retried):
                    if in_order:
                        vouched_ms = max(vouched_ms, _submitted_ms(sent))
                elif _submitted_ms(sent) >= vouched_ms:
                    rolled_back.append(sent)
        return rolled_back[::-1]


def groups(sent_jobs: Sequence[Sent], max_size: int) -> Iterator[list[Sent]]:
    """Split jobs into batches that can each be sent in one call: of one placement, and not too large."""
    batch: list[Sent] = []
    for sent in sent_jobs:
        if batch and (len(batch) == max_size or sent.placement != batch[0].placement):
            yield batch
            batch = []
        batch.append(sent)
    if batch:
        yield batch


def _is_same(sent: Sent, submitted_ms: int, config: bytes, retried: Callable[[], int]) -> bool:
    """Whether the job that the server has under this id is the one that was sent.

    A job is known by its id and its time of submission. A `retry` by the user gives it a new time: where
    there were retries, an equal config is enough.
    """
    if submitted_ms == sent.job.submitted_ms:
        return True
    return bool(retried()) and _decoded(config) == _decoded(sent.submission.config.encode())


def _decoded(text: bytes) -> object:
    try:
        return decode(text)
    except ValueError:
        return None


def _growing_pages(sent_jobs: Sequence[Sent]) -> Iterator[Sequence[Sent]]:
    """Pages of which the first has one job: it mostly vouches for all others."""
    yield sent_jobs[:1]
    yield from pages(sent_jobs[1:], _LOOKUP_PAGE)


def _submitted_ms(sent: Sent) -> int:
    return int(sent.job.submitted_ms or 0)
