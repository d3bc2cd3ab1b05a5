"""A driver that does all that a driver does, for tests that kill it: run again, it must say the same."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from queue_eval import Evaluator, failpoints
from queue_eval.model.job import Job

COUNT = 12
CANCELLED = 11
"""The job that is cancelled: it is submitted with a delay that never ends."""


def drive(home: str, campaign: str, folder: Path) -> dict[str, Any]:
    """Submit in two rounds, gather, cancel, look back, dump."""
    options = {"home": home, "campaign": campaign, "local_workers": False}
    with Evaluator.create("tests.support.functions:run", "thread", options) as evaluator:
        evaluator.submit([{"x": x} for x in range(COUNT // 2)])
        evaluator.gather("BATCH", size=2)
        evaluator.submit([{"x": x} for x in range(COUNT // 2, CANCELLED - 1)])
        delayed = evaluator.submit([{"x": CANCELLED - 1}], delay=3600)
        evaluator.submit([{"x": x} for x in range(CANCELLED, COUNT)])
        evaluator.dump_evals(saved_keys=["x"], log_dir=str(folder))
        evaluator.cancel([job for job in delayed if job.status != Job.DONE])
        evaluator.gather("ALL")
        evaluator.history()
        evaluator.dump_evals(saved_keys=["x"], log_dir=str(folder))
        return {
            "jobs": sorted((job.id, job.state, job.result, job.attempts) for job in evaluator.jobs_done),
            "left": evaluator.num_outstanding,
        }


def main() -> None:
    """``home campaign``: one life, in this folder. ``home campaign POINT``: of ``campaign-1`` and so on two
    lives each, of which one dies the first, second, ... time that it comes to the point; until one does not.
    """
    home, campaign, *point = sys.argv[1:]
    if not point:
        print(json.dumps(drive(home, campaign, Path())))
        return
    for number in range(1, 1000):
        name = f"{campaign}-{number}"
        folder = Path(name)
        folder.mkdir()
        has_died = _life(home, name, folder, f"{point[0]}@{number}") != 0
        if _life(home, name, folder, None) != 0:
            sys.exit(f"{name}: the second life failed")
        if not has_died:
            return


def _life(home: str, campaign: str, folder: Path, armed: str | None) -> int:
    """In a forked process, which has the imports already. How it ended: 0 when it came to its end."""
    pid = os.fork()
    if pid == 0:
        failpoints._armed = failpoints.parse(armed) if armed else None
        (folder / "out.json").write_text(json.dumps(drive(home, campaign, folder)))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
