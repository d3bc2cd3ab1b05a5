"""Jobs that have finished, as a driver reads them back from the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.history import Past, past_pages, without_collections
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.driver.fill import JobFiller
from queue_eval.driver.id_set import IdSet
from queue_eval.driver.ledger import Ledger
from queue_eval.model.job import Job


class PastJobs:
    """Reads finished jobs of a campaign.

    `is_current`: the history goes on up to now, for a driver that only looks, and so gathers nothing.

    Guarantees: one job is one object, as long as the ledger keeps it.
    """

    def __init__(
        self, queue: CampaignCommands, ledger: Ledger, filler: JobFiller, *, is_current: bool = False
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._filler = filler
        self._is_current = is_current
        self._history: list[Job] | None = None

    def history(self) -> list[Job]:
        """Jobs that had finished when the campaign was opened, or have by now, in that order.

        They count as gathered.
        """
        found = self._history
        if found is None:
            with without_collections():
                tail = self._queue.standing().tail if self._is_current else self._ledger.opened.tail
                found = list(self._read(tail))
            if self._ledger.keep and not self._is_current:
                self._history = found
        with self._ledger.lock:
            if self._is_current:  # one that was gathered may have been retried
                self._ledger.gathered_jobs.clear()
                self._ledger.gathered_ids = IdSet()
            for job in found:
                self._ledger.count_as_gathered(job)
        return list(found)

    def gathered(self) -> Iterator[Job]:
        """Every job that was gathered, read from the server in the order in which they finished."""
        for job in self._read(self._queue.standing().tail):
            if job.id in self._ledger.gathered_ids:
                yield job

    def _read(self, tail: str) -> Iterator[Job]:
        for page in past_pages(self._queue, tail):
            yield from self._jobs_of(page)

    def _jobs_of(self, page: Sequence[Past]) -> list[Job]:
        self._filler.learn_hosts(entry for entry, *_ in page)
        jobs = []
        with self._ledger.lock:
            tracked = self._ledger.tracked
            for entry, submitted_ms, config, tag in page:
                job = tracked.get(entry.id)
                if job is None or (self._is_current and _is_former(job, entry)):
                    job = self._filler.rebuild(entry, submitted_ms, config, tag)
                    if self._ledger.keep:
                        tracked[entry.id] = job
                elif job.status != Job.DONE:
                    self._filler.fill(job, entry)
                jobs.append(job)
        return jobs


def _is_former(job: Job, entry: ResultEntry) -> bool:
    """Whether a job has an earlier outcome than this one: it was retried."""
    return job.status == Job.DONE and job.finished_ms != entry.finished_ms
