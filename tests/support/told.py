"""What a waiting driver is told by warnings."""

from __future__ import annotations

import re
import time

import pytest

from queue_eval import Evaluator, Job


def gather_until_told(driver: Evaluator, why: str, timeout_s: float = 30.0) -> tuple[list[Job], list[str]]:
    """Waits for jobs until a warning matches `why`; gives what has ended meanwhile, and all that was said."""
    deadline = time.monotonic() + timeout_s
    jobs: list[Job] = []
    with pytest.warns(UserWarning, match=why) as told:  # noqa: PT031 - it waits for one
        while not any(re.search(why, str(one.message)) for one in told) and time.monotonic() < deadline:
            jobs += driver.gather("ALL", timeout=0.3)
    return jobs, [str(one.message) for one in told]
