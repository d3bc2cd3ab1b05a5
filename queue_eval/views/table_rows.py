"""The rows of a campaign's tables: jobs that have finished, attempts that have ended, reports.

Everything is read in pages: memory stays flat for any number of jobs. The rows of one page are of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.paging import PAGE, pages
from queue_eval.campaign.places import page_size
from queue_eval.views.formats import iso
from queue_eval.views.records import JobRecordReader

Row = dict[str, Any]


def job_rows(queue: CampaignCommands) -> Iterator[Row]:
    """The jobs that are finished now, as of `JobRecord.as_json`, in the order in which they finished."""
    records = JobRecordReader(queue)
    tail = queue.standing().tail
    cursor = "0-0"
    while page := queue.read_until(cursor, tail):
        cursor = page[-1].entry
        for record in records.of_entries(page):
            yield record.as_json()


def attempt_rows(queue: CampaignCommands) -> Iterator[Row]:
    """Every attempt on record that has ended, also of jobs that have not, in the order of jobs and attempts.

    The stream of failures is read once: it is bounded, and only which of its entries are of which job is kept
    in memory.
    """
    reader = ExecutionReader(queue)
    for ids in pages(range(1, queue.snapshot().last_id + 1), page_size(queue)):
        for job_id, executions in reader.executions_by_job(ids, with_outputs=False).items():
            for one in executions:
                if one.finished_at is not None:
                    yield {
                        "job": job_id,
                        "attempt": one.number,
                        "outcome": one.outcome,
                        "cause": one.cause,
                        "worker": one.worker,
                        "host": one.host,
                        "started_at": _iso(one.started_at),
                        "finished_at": _iso(one.finished_at),
                        "run_s": one.run_s,
                        "error": one.error,
                    }


def report_rows(queue: CampaignCommands) -> Iterator[Row]:
    """Every report that is kept, in the order of jobs and of arrival. Those of one job are read at once."""
    for ids in pages(range(1, queue.snapshot().last_id + 1), PAGE):
        for job_id, head in zip(ids, queue.report_heads(ids), strict=True):
            if head is None or not head.points:
                continue
            for _, report in queue.reports_of(job_id):
                yield {
                    "job": job_id,
                    "attempt": report.attempt,
                    "step": report.step,
                    "at": _iso(report.at),
                    "values": report.values,
                }


TABLES: dict[str, Callable[[CampaignCommands], Iterator[Row]]] = {
    "jobs": job_rows, "attempts": attempt_rows, "reports": report_rows,
}  # fmt: skip
"""Name of a table -> its rows."""


def _iso(time: datetime | None) -> str | None:
    return None if time is None else iso(time.timestamp() * 1000)
