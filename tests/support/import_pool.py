"""A run function whose module has started a thread at its import."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import queue_eval

_POOL = ThreadPoolExecutor(1)
_POOL.submit(int).result()


def report_in_pool(config: dict[str, Any]) -> int:
    number: int = _POOL.submit(lambda: queue_eval.current_job().id).result()
    _POOL.submit(lambda: queue_eval.current_job().report(1, job=number)).result()
    return number
