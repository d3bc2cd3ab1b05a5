"""A driver that keeps no job it has gathered: all else is as ever."""

from __future__ import annotations

import asyncio
import csv

from queue_eval import Evaluator

FUNCTION = "tests.support.functions:run"


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
        ledger = evaluator._campaign.ledger
        for kept in (ledger.tracked, ledger.waiting, ledger.ready, ledger.done, ledger.joined):
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
        assert rows(unkept)[0] == ["x", "none", "id", "objective", "elapsed_sec", "duration"]
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
