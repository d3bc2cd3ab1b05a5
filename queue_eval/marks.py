"""Environment variables that mark the processes of a job. Processes that run user code import this module."""

from __future__ import annotations

import os

STARTED_BY = "QUEUE_EVAL_STARTED_BY"
"""It marks a process that runs user code, and all processes that this starts."""

INSIDE_JOB = "QUEUE_EVAL_INSIDE_JOB"
"""It has the name of the campaign whose job the user code runs for."""


def unmarked() -> dict[str, str]:
    """The environment for a process that is to outlive the job in which this process may run."""
    return {name: value for name, value in os.environ.items() if name != STARTED_BY}
