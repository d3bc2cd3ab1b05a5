"""After many jobs of libraries and programs that start processes, nothing of them is left."""

from __future__ import annotations

import re
import secrets
import signal
from pathlib import Path

import pytest

from queue_eval.chaos.processes import MARK, describe, marked
from tests.support.realworld_functions import FOR_EVER_S, work
from tests.support.waiting import wait_until

pytest.importorskip("joblib")
pytestmark = [pytest.mark.realworld, pytest.mark.timeout(1800)]

JOBS = 200
KINDS = ["joblib", "mpirun", "timeout"]
LIMIT_S = 6.0
SLOTS = 4


def entries_of(pids: set[str]) -> list[str]:
    """What processes with these numbers have in shared memory: the names tell."""
    names = (path.name for path in Path("/dev/shm").iterdir())
    return [name for name in names if pids.intersection(re.findall(r"\d+", name))]


@pytest.mark.parametrize("method", ["process", "subprocess"])
def test_after_many_jobs_a_third_of_them_late(fleet, campaign, tmp_path, method):
    mark = secrets.token_hex(8)
    pids, temporary = tmp_path / "pids", tmp_path / "temporary"
    pids.mkdir()
    temporary.mkdir()
    environment = {MARK: mark, "TMPDIR": str(temporary)}
    worker = fleet.worker("--campaign", campaign, slots=SLOTS, lease="30s", **environment)
    with fleet.driver(campaign, work, method, time_limit=LIMIT_S, max_attempts=1) as driver:
        jobs = driver.submit(
            {"kind": KINDS[i // 3 % 3], "late": i % 3 == 0, "folder": str(pids)} for i in range(JOBS)
        )
        driver.gather("ALL", timeout=FOR_EVER_S * 5)
    late = [job for job in jobs if job.config["late"]]
    assert [job.cause for job in late] == ["timeout"] * len(late)
    done = [job for job in jobs if job.result == "done"]
    assert len(done) > (JOBS - len(late)) / 2, "the machine may be slow, but not so slow"
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    wait_until(lambda: [describe(process) for process in marked(mark)] == [], 10)
    assert entries_of({path.name for path in pids.iterdir()}) == []
    assert [path.name for path in temporary.iterdir()] == []
