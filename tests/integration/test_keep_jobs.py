"""A driver that keeps no job it has gathered: all else is as ever."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.driver.submission_log import MAX_REMEMBERED_JOBS

FUNCTION = "tests.support.functions:run"

# Bytes by which a driver grows per job, once it holds as many submissions as it ever does.
GROWTH = """
import json, sys, psutil
from queue_eval import Evaluator
function, keywords, first, count = json.loads(sys.argv[1])
def go_through(jobs):
    for start in jobs[::2000]:
        evaluator.submit([{"x": x, "rate": 0.001 * x, "kind": "adam"} for x in range(start, start + 2000)])
        evaluator.gather("ALL", timeout=60)
    return psutil.Process().memory_info().rss
with Evaluator.create(function, "process", keywords) as evaluator:
    before = go_through(range(first))
    after = go_through(range(first, first + count))
    assert evaluator.num_gathered == first + count
print((after - before) / count)
"""


def driver(server, campaign, **more):
    keywords = {"home": server, "campaign": campaign, "local_workers": False, "keep_jobs": False}
    return Evaluator.create(FUNCTION, "process", keywords | more)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_gathered_jobs_are_let_go(server, campaign, fake_worker):
    with driver(server, campaign) as evaluator:
        evaluator.submit([{"x": x} for x in range(10)])
        fake_worker(campaign)
        batch = evaluator.gather("ALL", timeout=20)
        assert sorted(job.result for job in batch) == [10 * x for x in range(10)]
        assert (evaluator.num_gathered, evaluator.num_submitted, evaluator.num_outstanding) == (10, 10, 0)
        assert evaluator.jobs == evaluator.jobs_done == []
        assert evaluator.gather("ALL", timeout=0.1) == []
        ledger = evaluator._session.ledger
        for kept in (ledger.tracked, ledger.waiting, ledger.ready, ledger.gathered_jobs, ledger.joined):
            assert len(kept) == 0


def test_the_csv_is_the_same(server, campaign, fake_worker, tmp_path):
    """Each gathered job once; not those that are finished and not gathered; over lives and retries."""
    kept, unkept = tmp_path / "kept", tmp_path / "unkept"
    shared = {"list": [1, None, 1.5], "text": 'a, "b"\n'}
    configs = [{"x": x} | shared | ({"odd": True} if x % 2 else {}) for x in range(9)]
    with driver(server, campaign) as evaluator:
        evaluator.dump_evals(log_dir=unkept)
        assert not (unkept / "results.csv").exists()
        evaluator.submit(configs)
        fake_worker(campaign)
        evaluator.gather("ALL", timeout=20)
        evaluator.submit([{"x": 100}])
        for _ in range(2):
            evaluator.dump_evals(log_dir=unkept)
            assert len(rows(unkept)) == 10
        evaluator.gather("ALL", timeout=20)
        evaluator.dump_evals(log_dir=unkept)
        assert [file.name for file in unkept.iterdir()] == ["results.csv"]
        assert len(rows(unkept)) == 11
        evaluator.dump_evals(["x", "none"], unkept)
        assert rows(unkept)[0] == ["x", "none", "id", "objective", "elapsed_sec", "duration", "state"]
        evaluator.dump_evals(lambda job: {"double": 2 * job.config["x"]}, unkept)
        assert rows(unkept)[1][0] == "0"
        evaluator.dump_evals(log_dir=unkept)
    with driver(server, campaign, keep_jobs=True) as evaluator:
        assert len(evaluator.history()) == 10
        evaluator.dump_evals(log_dir=kept)
    assert (kept / "results.csv").read_bytes() == (unkept / "results.csv").read_bytes()


def test_reuse_history_and_single_jobs(server, campaign, fake_worker):
    with driver(server, campaign) as evaluator:
        fake_worker(campaign)
        evaluator.submit([{"x": 1}, {"x": 2}])
        assert len(evaluator.gather("ALL", timeout=20)) == 2
        job = asyncio.run(evaluator.execute(evaluator.create_job({"x": 3})))
        assert job.result == 30
        assert evaluator.num_gathered == 3
        assert evaluator.jobs == []
    with driver(server, campaign) as evaluator:
        assert [job.result for job in evaluator.history()] == [10, 20, 30]
        assert evaluator.num_gathered == 3
        assert [job.result for job in evaluator.history()] == [10, 20, 30]
        evaluator.submit([{"x": 1}])
        (joined,) = evaluator.gather("ALL", timeout=20)
        assert (joined.id, joined.result, evaluator.num_gathered) == (1, 10, 3)


@pytest.mark.long
@pytest.mark.parametrize("keep_jobs", [False, True])
def test_memory_does_not_grow_with_what_was_gathered(server, campaign, fake_worker, keep_jobs):
    """With reuse, the fingerprint of a job stays. What kept jobs cost is well above the bound."""
    with driver(server, campaign):
        fake_worker(campaign)
    keywords = {"home": str(server), "campaign": campaign, "local_workers": False, "keep_jobs": keep_jobs}
    counts = MAX_REMEMBERED_JOBS + 2000, 20_000
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, json.dumps([FUNCTION, keywords, *counts])],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert (float(done.stdout) < 400) == (not keep_jobs), done.stdout
