"""How long things take to start: a worker, and the imports."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.extent import Extent, Progress
from benchmarks.findings import Found, Row
from benchmarks.stage import open_stage

TITLE = "starting"

HEAVY = ("pandas", "ray", "rq", "numpy")
"""What `import queue_eval` must not import."""

_TIMED_IMPORT = """
import json, sys, time
began = time.perf_counter()
{statement}
took_ms = 1000 * (time.perf_counter() - began)
print(json.dumps([took_ms, [name for name in {heavy!r} if name in sys.modules]]))
"""


def measure(extent: Extent, progress: Progress) -> Found:
    progress("start of workers")
    rounds: dict[str, list[float]] = {"worker": []}
    with open_stage() as stage:
        for _ in range(extent.starts):
            with stage.worker() as worker:
                rounds["worker"].append(1000 * worker.start_s)
    median = statistics.median(rounds["worker"])
    rows = [Row("worker", "a worker, from its process to being registered", median, "ms")]
    progress("imports")
    for statement in ("import queue_eval", "from queue_eval import Evaluator"):
        runs = [_timed_import(statement) for _ in range(extent.imports)]
        rounds[statement] = [run[0] for run in runs]
        note = f"imports {', '.join(runs[0][1])}" if runs[0][1] else f"no {', '.join(HEAVY)}"
        rows.append(Row(statement, statement, statistics.median(rounds[statement]), "ms", note))
    return Found(rows, rounds)


def _timed_import(statement: str) -> tuple[float, list[str]]:
    """Milliseconds in a fresh interpreter, and which heavy packages came along."""
    program = _TIMED_IMPORT.format(statement=statement, heavy=HEAVY)
    found: Any = json.loads(subprocess.check_output([sys.executable, "-c", program]))
    return found[0], found[1]
