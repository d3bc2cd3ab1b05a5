"""Where the jobs of a driver read what they do not carry: see `JobSource`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.view import CampaignView
from queue_eval.errors import GiveUp, ServerUnreachableError
from queue_eval.model.job import Execution, JobSource
from queue_eval.model.report import Report
from queue_eval.transport.access import safe_url


class CampaignSource(JobSource):
    """Reads from the campaign of one driver.

    It works after the driver was closed, too: then it connects anew for each reading, and a server that is
    away is not waited for.
    """

    def __init__(self, view: CampaignView) -> None:
        self._view = view
        self._executions = ExecutionReader(view)
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True

    def output(self, job_id: int) -> str | None:
        with self._connected():
            return self._executions.output_of(job_id)

    def executions(self, job_id: int) -> Sequence[Execution]:
        with self._connected():
            return self._executions.executions_of(job_id)

    def reports(self, job_id: int) -> Sequence[Report]:
        with self._connected():
            return [report for _, report in self._view.reports_of(job_id)]

    @contextmanager
    def _connected(self) -> Iterator[None]:
        link = self._view.link
        try:
            yield
        except GiveUp:  # raised only when the driver was closed
            raise ServerUnreachableError(
                f"no server answers at {safe_url(link.access.url)}; start it, then look again"
            ) from None
        finally:
            if self._is_closed:
                link.close()
