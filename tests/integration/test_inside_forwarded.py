"""What jobs tell and are told that run in Ray's and RQ's processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from queue_eval.model.states import State
from tests.support import running_jobs
from tests.support.fault_fleet import end, wait_state
from tests.support.ray_cluster import RayCluster
from tests.support.rq_fleet import RqFleet, RqRedis
from tests.support.waiting import wait_until


@pytest.fixture(params=[pytest.param("ray", marks=pytest.mark.long), "rq"])
def backend(request):
    """The method, and the options of a campaign that forwards to a cluster or fleet of its own."""
    if request.param == "ray":
        cluster = RayCluster(cpus=5)
        yield "ray", {"address": cluster.address, "num_cpus_per_task": 1}
        cluster.close()
        return
    server = RqRedis()
    fleet = RqFleet(server.url, worker_class="rq.SimpleWorker", count=5)
    yield "rq", {"num_workers": 5, "rq_url": server.url, "rq_queue": fleet.queue}
    fleet.close()
    server.close()


def test_reports_stops_give_backs_checkpoints_and_folders(fleet, campaign, backend):
    method, options = backend
    log = str(fleet.log)

    def told(**wanted):
        lines = [json.loads(line) for line in fleet.log.read_text().splitlines()]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]

    with fleet.driver(campaign, running_jobs.act, method, **options) as driver:
        names = ("until_told", "report_from_everywhere", "save_and_give_back", "in_a_folder", "facts")
        driver.submit([{"do": name, "log": log} for name in (*names, "report_from_a_program")])
        name = ("--name", f"w-{campaign}")
        worker = fleet.worker("--campaign", campaign, *name, "--time-limit", "500s", slots=5)
        queue = fleet.queue(campaign)

        def points(job):
            return [report for _, report in queue.reports_of(job)]

        wait_until(lambda: all(head and head.looked for head in queue.report_heads([1, 6])), timeout_s=60)
        assert queue.stop([1, 6]).looking == [1, 6]
        jobs = {job.id: job for job in driver.gather("ALL", timeout=60)}
        assert [job.state for _, job in sorted(jobs.items())] == ["succeeded"] * 6
        assert jobs[1].result == "stop"
        entries = queue.entries(queue.index_of([1, 6]))
        assert [entry.cause for entry in entries] == ["stopped", "stopped"]
        assert (jobs[2].result, jobs[2].attempts) == (3, 1)
        assert sorted((report.step, *report.values) for report in points(2)) == [
            (1, "thread"), (2, "fork"), (3, "main")
        ]  # fmt: skip
        attempt, step = jobs[3].result
        assert (step, jobs[3].attempts) == ("7", 1)
        assert attempt > jobs[3].releases >= 1
        (saved,) = told(did="saved")
        assert Path(saved["folder"]).is_relative_to(fleet.home / "checkpoints")
        wait_until(lambda: not list((fleet.home / "checkpoints").glob(f"{campaign}-*/*")))
        assert not Path(jobs[4].result).exists()
        facts = jobs[5].result
        assert (facts["worker"], facts["slots"], facts["id"]) == (f"w-{campaign}", 1, 5)
        assert 300 < facts["remaining_s"] <= 500
        assert [report.values for report in points(6)] == [{"program": 1.0}]
        assert jobs[6].result == ""

        driver.submit([{"do": "until_told", "log": log, "reason": "half way"}])
        wait_until(lambda: told(did="begun", job=7))
        assert end(worker, timeout_s=60) == 0
        assert [line["job"] for line in told(did="drain")] == [7]
        wait_state(queue, State.PENDING, 1)
