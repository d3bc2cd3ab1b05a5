"""What a driver has submitted of late, and what of it the server has forgotten.

A server may go back in time: a power cut under everysec undoes a second, a failover what had not been
replicated. What was acknowledged then is gone, and the ids are given again. Moves are undone from the last
one backwards, so that one job that is still there vouches for all that were submitted before it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignQueue
from queue_eval.campaign.paging import pages
from queue_eval.model.codec import decode
from queue_eval.model.job import Job
from queue_eval.model.moves import Submission

_MOST = 20_000
_KEPT_MS = 60_000
"""What is finished is kept for so long: nobody goes back further."""

_PAGE = 500


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A job that was submitted, and all it takes to submit it again."""

    job: Job
    submission: Submission
    priority: int
    delay_ms: int
    slots: int


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Jobs that were sent together. Tuples of plain values: thousands of small objects that live for long and
    then die would have Python look for garbage among all jobs, several times as often."""

    jobs: tuple[Job, ...]
    configs: tuple[str, ...]
    fingerprints: tuple[bytes, ...]
    occurrences: tuple[int, ...]
    priority: int
    delay_ms: int
    slots: int
    newest_ms: float
    """When the last of them was submitted."""

    def each(self) -> Iterator[Sent]:
        columns = zip(self.jobs, self.configs, self.fingerprints, self.occurrences, strict=True)
        for job, config, fingerprint, occurrence in columns:
            submission = Submission(config, fingerprint, occurrence)
            yield Sent(job, submission, self.priority, self.delay_ms, self.slots)

    def is_past(self, end_ms: float) -> bool:
        """Whether all was submitted before, and is over."""
        return self.newest_ms < end_ms and all(job.status == Job.DONE for job in self.jobs)


class Undone:
    """Assumes: one thread at a time."""

    def __init__(self) -> None:
        self._sent: deque[_Batch] = deque()
        self._count = 0

    def add(
        self, jobs: Sequence[Job], submissions: Sequence[Submission], *,
        priority: int, delay_ms: int, slots: int,
    ) -> None:  # fmt: skip
        """The server has acknowledged these."""
        if not jobs:
            return
        configs, fingerprints, occurrences = zip(*submissions, strict=True)
        newest_ms = max(job.submitted_ms or 0 for job in jobs)
        batch = _Batch(
            tuple(jobs), configs, fingerprints, occurrences, priority, delay_ms, slots, newest_ms
        )
        self._sent.append(batch)
        self._count += len(jobs)
        end_ms = newest_ms - _KEPT_MS
        while self._count - len(self._sent[0].jobs) >= _MOST or self._sent[0].is_past(end_ms):
            self._count -= len(self._sent.popleft().jobs)

    def find(self, queue: CampaignQueue, *, in_order: bool = True) -> list[Sent]:
        """Those that the server does not have (any more), in the order of submission.

        `in_order`: they were acknowledged in this order. Not when what was undone has been submitted again
        in part: that has later times than the rest, for which it vouches nothing.
        """
        each = (sent for batch in self._sent for sent in batch.each())
        by_age = sorted(each, key=lambda sent: (_stamp(sent), sent.job.id), reverse=True)
        undone: list[Sent] = []
        vouched_ms = -1
        retried = functools.cache(queue.retried)
        for page in _growing(by_age):
            if all(_stamp(sent) < vouched_ms for sent in page):
                break
            there = queue.configs_of([sent.job.id for sent in page])
            for sent, origin in zip(page, there, strict=True):
                if origin is not None and _is_same(sent, *origin, retried):
                    if in_order:
                        vouched_ms = max(vouched_ms, _stamp(sent))
                elif _stamp(sent) >= vouched_ms:
                    undone.append(sent)
        return undone[::-1]


def groups(sent: Sequence[Sent], most: int) -> Iterator[list[Sent]]:
    """In batches of those that can be sent in one call."""
    batch: list[Sent] = []
    for one in sent:
        if batch and (len(batch) == most or _how(one) != _how(batch[0])):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _how(sent: Sent) -> tuple[int, int, int]:
    return sent.priority, sent.delay_ms, sent.slots


def _is_same(sent: Sent, submitted_ms: int, config: bytes, retried: Callable[[], int]) -> bool:
    """Whether what has this id is this job. A `retry` by the user gives it a new time."""
    if submitted_ms == sent.job.submitted_ms:
        return True
    return bool(retried()) and _config(config) == _config(sent.submission.config.encode())


def _config(text: bytes) -> object:
    try:
        return decode(text)
    except ValueError:
        return None


def _growing(sent: Sequence[Sent]) -> Iterator[Sequence[Sent]]:
    """The first by itself, for it mostly tells all."""
    yield sent[:1]
    yield from pages(sent[1:], _PAGE)


def _stamp(sent: Sent) -> int:
    return int(sent.job.submitted_ms or 0)
