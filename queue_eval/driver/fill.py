"""How an entry of the result stream becomes the outcome of a job, in the driver and in the commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.places import Place, hosts_by_worker
from queue_eval.campaign.result_stream import ResultEntry, judged
from queue_eval.model.codec import decode, decode_tag
from queue_eval.model.job import Job, JobSource
from queue_eval.model.states import Outcome, State


class JobFiller:
    """Writes outcomes into the jobs of one campaign.

    Assumes: `learn_hosts` was called with an entry before that is written into a job. Writing then needs no
    call to the server, so it may be done under a lock.
    """

    def __init__(
        self, queue: CampaignCommands, run_function: Any, created_ms: int, failure_value: Any,
        source: JobSource | None = None,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._run_function = run_function
        self._created_ms = created_ms
        self._failure_value = failure_value
        self._source = source
        self._hosts: dict[str, str] = {}

    def learn_hosts(self, entries: Iterable[ResultEntry]) -> None:
        """Ask the server on which hosts the workers of these entries ran, where that is not known yet."""
        self.learn_workers(entry.worker for entry in entries)

    def learn_workers(self, workers: Iterable[str]) -> None:
        """Ask the server on which hosts these workers run, where that is not known yet."""
        unknown = [worker for worker in workers if worker not in self._hosts]
        self._hosts |= hosts_by_worker(self._queue, unknown)

    def fill(self, job: Job, entry: ResultEntry) -> None:
        """Write an outcome into its job."""
        fill(job, entry, self._hosts.get(entry.worker), self._created_ms, self._failure_value)

    def show(self, job: Job, place: Place) -> None:
        """Write into an unfinished job where it is."""
        job.state = place.state
        job.worker = place.worker or None
        job.host = self._hosts.get(place.worker)
        job.started_ms = place.began_ms
        job.attempts = place.attempts
        job.releases = place.releases

    def rebuild(self, entry: ResultEntry, submitted_ms: int, config: bytes, tag: bytes = b"") -> Job:
        """The job of an outcome, where this driver has no object for it yet."""
        job = self.begin(entry.id, submitted_ms, config, tag)
        self.fill(job, entry)
        return job

    def begin(self, job_id: int, submitted_ms: int, config: bytes, tag: bytes) -> Job:
        """An unfinished job, where this driver has no object for it yet."""
        try:
            decoded = decode(config)
        except ValueError:
            decoded = None
        # A damaged config is shown as an empty one: the outcome counts all the same.
        own = decoded if isinstance(decoded, dict) else {}
        job = Job.owning(job_id, own, self._run_function, self._source)
        job.status, job.submitted_ms, job.tag = Job.RUNNING, submitted_ms, decode_tag(tag)
        return job


def fill(job: Job, entry: ResultEntry, host: str | None, created_ms: int, failure_value: Any) -> None:
    """Write an outcome into its job.

    `host`: where its worker ran. `created_ms`: when the campaign was created. `failure_value`: the result of
    a failed or cancelled job.
    """
    _, _, state, attempts, run_ms, finished_ms, worker, source, cause, body, releases, *_ = judged(entry)
    job.state = state
    job.attempts = attempts
    job.releases = releases
    job.cause = cause or None
    if cause and state is State.SUCCEEDED:
        job.cause, job.stopped_early = None, cause == Outcome.STOPPED
    job.worker = worker or None
    job.host = host
    job.source = source or None
    job.started_ms = None if run_ms is None else finished_ms - run_ms
    job.finished_ms = finished_ms
    job.elapsed_sec = max(0, finished_ms - created_ms) / 1000
    job.duration = max(0.0, finished_ms - (job.submitted_ms or finished_ms)) / 1000
    job.result = failure_value
    if state is State.SUCCEEDED:
        try:
            job.result = decode(body)
        except ValueError as error:  # No worker of ours wrote it. It costs this job, not the gather.
            job.state, job.cause, job.error = State.FAILED, "error", f"the result is not JSON: {error}"
            job.stopped_early = False
    elif state is State.FAILED:
        job.error = body.decode(errors="replace")
    job.status = Job.DONE
