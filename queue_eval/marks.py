"""Environment variables that tell a process that it is of a job. Imported by processes that run user code."""

from __future__ import annotations

import os

STARTED_BY = "QUEUE_EVAL_STARTED_BY"
"""Of a process that runs user code, and of all that it starts."""

INSIDE_JOB = "QUEUE_EVAL_INSIDE_JOB"
"""The campaign of the job in which user code runs."""


def unmarked() -> dict[str, str]:
    """The environment for a process that is to outlive the job in which this process may run."""
    return {name: value for name, value in os.environ.items() if name != STARTED_BY}
