"""`JobList`: a list of jobs that a notebook shows as a table."""

from __future__ import annotations

from queue_eval.model.html import jobs_html
from queue_eval.model.job import Job


class JobList(list[Job]):
    """A list like any other; notebooks show it as a table."""

    def _repr_html_(self) -> str:
        return jobs_html(self)
