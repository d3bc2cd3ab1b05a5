"""How an entry of the result stream becomes the outcome of a job."""

from __future__ import annotations

from typing import Any

from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.model.codec import decode
from queue_eval.model.job import Job
from queue_eval.model.non_finite import is_finite, judge_result
from queue_eval.model.states import Outcome, State


def rebuilt(id_: int, submitted_ms: int, config: bytes, run_function: Any) -> Job:
    """A job that this driver knew only by its number, or not at all."""
    try:
        known = decode(config)
    except ValueError:
        known = None
    # What is damaged is shown as nothing: the outcome counts all the same.
    job = Job.owning(id_, known if isinstance(known, dict) else {}, run_function)
    job.submitted_ms = submitted_ms
    return job


def judged(entry: ResultEntry) -> ResultEntry:
    """The outcome, with a result that is NaN or infinite as a failure.

    A worker of an earlier version calls it a success when the process that ran it is of this one.
    """
    if entry.state is not State.SUCCEEDED or is_finite(entry.body):
        return entry
    outcome, body = judge_result(Outcome.OK, entry.body)
    return entry._replace(state=State.FAILED, cause=outcome.value, body=body)


def fill(job: Job, entry: ResultEntry, host: str | None, created_ms: int, failure_value: Any) -> None:
    """`host`: where its worker runs; `created_ms`: when the campaign was created; `failure_value`: the result
    of a failed or cancelled job."""
    _, _, state, attempts, run_ms, finished_ms, worker, source, cause, body, releases = judged(entry)
    job.state = state
    job.attempts = attempts
    job.releases = releases
    job.cause = cause or None
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
        except ValueError as error:  # not written by a worker of ours; one job is lost, not the gather
            job.state, job.cause, job.error = State.FAILED, "error", f"the result is not JSON: {error}"
    elif state is State.FAILED:
        job.error = body.decode(errors="replace")
    job.status = Job.DONE
