"""What running jobs tell and are told, through real workers."""

from __future__ import annotations

import itertools
import json
import math
import signal
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from queue_eval.model.states import State
from tests.support import running_jobs
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import check_all_recorded
from tests.support.marks import long
from tests.support.waiting import wait_until

METHODS = ("thread", "process", "subprocess")


@pytest.fixture
def told(fleet):
    """What the jobs have written: a function that gives a list of facts."""

    def read(**wanted):
        if not fleet.log.exists():
            return []
        lines = [json.loads(line) for line in fleet.log.read_text().splitlines()]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]

    return read


def _reports(queue, job):
    return [report for _, report in queue.reports_of(job)]


@pytest.mark.parametrize("method", METHODS)
def test_each_job_has_its_own_reports(fleet, campaign, method):
    with fleet.driver(campaign, running_jobs.report_all, method) as driver:
        driver.submit([{"steps": 5 + i} for i in range(6)])
        fleet.worker("--campaign", campaign, slots=2)
        assert [job.result for job in sorted(driver.gather("ALL", timeout=60), key=lambda job: job.id)] == [
            5, 6, 7, 8, 9, 10
        ]  # fmt: skip
        queue = fleet.queue(campaign)
        for job in range(1, 7):
            reports = _reports(queue, job)
            assert [report.step for report in reports] == list(range(4 + job))
            assert {report.values["job"] for report in reports} == {job}
            assert {report.attempt for report in reports} == {1}


def test_a_report_is_shown_while_the_job_runs(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.report_and_wait) as driver:
        before = time.time()
        driver.submit([{"log": str(fleet.log), "gate": str(fleet.folder / "gate")}])
        fleet.worker("--campaign", campaign)
        queue = fleet.queue(campaign)
        (report,) = wait_until(lambda: _reports(queue, 1))
        assert (report.step, report.values, report.attempt) == (1, {"loss": 0.5}, 1)
        assert before - 1 < report.at.timestamp() < time.time() + 1
        fleet.open_gate()
        assert driver.gather("ALL", timeout=30)[0].result == "done"


def test_nan_is_kept_and_ends_nothing(fleet, campaign):
    with fleet.driver(campaign, running_jobs.report_all) as driver:
        driver.submit([{"steps": 1, "loss": "nan"}, {"steps": 1, "loss": "-inf"}])
        fleet.worker("--campaign", campaign)
        assert [job.state for job in driver.gather("ALL", timeout=30)] == ["succeeded"] * 2
        queue = fleet.queue(campaign)
        assert math.isnan(_reports(queue, 1)[0].values["loss"])
        assert _reports(queue, 2)[0].values["loss"] == -math.inf


def test_reports_of_a_killed_worker_stay_with_their_attempt(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.report_and_wait) as driver:
        driver.submit([{"log": str(fleet.log), "gate": str(fleet.folder / "gate")}])
        first = fleet.worker("--campaign", campaign)
        queue = fleet.queue(campaign)
        wait_until(lambda: _reports(queue, 1))
        first.kill()
        fleet.open_gate()
        fleet.worker("--campaign", campaign)
        assert driver.gather("ALL", timeout=30)[0].attempts == 2
        assert [(report.step, report.attempt) for report in _reports(queue, 1)] == [(1, 1), (1, 2)]


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_job_that_is_asked_to_stop_returns_what_it_has(fleet, campaign, told, method):
    with fleet.driver(campaign, running_jobs.until_told, method) as driver:
        driver.submit([{"log": str(fleet.log)}, {"log": str(fleet.log), "gate": str(fleet.folder / "gate")}])
        fleet.worker("--campaign", campaign, slots=2)
        wait_until(lambda: len(told(did="begun")) == 2)
        queue = fleet.queue(campaign)
        wait_until(lambda: all(head and head.looked for head in queue.report_heads([1, 2])))
        assert queue.stop([1]).asked == [1]
        (job,) = driver.gather("BATCH", 1, timeout=30)
        assert (job.id, job.state, job.result) == (1, State.SUCCEEDED, "stop")
        assert queue.entries(queue.index_of([1]))[0].cause == "stopped"
        fleet.open_gate()
        (other,) = driver.gather("ALL", timeout=30)
        assert (other.id, other.result) == (2, "gate")
        assert queue.entries(queue.index_of([2]))[0].cause == ""


def test_a_stop_survives_the_death_of_the_worker(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.until_told) as driver:
        driver.submit([{"log": str(fleet.log)}])
        first = fleet.worker("--campaign", campaign)
        wait_until(lambda: told(did="begun"))
        first.send_signal(signal.SIGSTOP)
        queue = fleet.queue(campaign)
        assert queue.stop([1]).asked == [1]
        first.kill()
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.result, job.attempts) == ("stop", 2)


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_drain_reaches_the_job_which_gives_itself_back(fleet, campaign, told, method):
    with fleet.driver(campaign, running_jobs.until_told, method, retry_delay=300) as driver:
        driver.submit([{"log": str(fleet.log), "gate": str(fleet.folder / "gate"), "reason": "half way"}])
        first = fleet.worker("--campaign", campaign)
        wait_until(lambda: told(did="begun"))
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        assert [line["attempt"] for line in told(did="drain")] == [1]
        fleet.open_gate()
        fleet.worker("--campaign", campaign)  # at once, although retry_delay is long
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.result, job.attempts, job.releases) == ("gate", 1, 1)
        assert "half way" in fleet.output_of(first)
        check_all_recorded(fleet.queue(campaign), 1)


def test_a_job_that_gives_itself_back_anywhere_waits(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.give_back_at_first, retry_delay=0.2) as driver:
        driver.submit([{"log": str(fleet.log), "times": 2}])
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.result, job.attempts, job.releases) == (3, 1, 2)
        begun = [line["at"] for line in told(did="begun")]
        assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(begun))


def test_ten_give_backs_in_a_row_are_counted(fleet, campaign):
    with fleet.driver(campaign, running_jobs.give_back_at_first) as driver:
        driver.submit([{"log": str(fleet.log), "times": 11}])
        fleet.worker("--campaign", campaign)
        queue = fleet.queue(campaign)
        assert wait_until(queue.give_backs)[0][0] == 1
        with warnings.catch_warnings():  # whether the driver looks while it lasts, is chance
            warnings.filterwarnings("ignore", message=".*job 1 was given back")
            (job,) = driver.gather("ALL", timeout=30)
        assert (job.attempts, job.releases) == (1, 11)
        assert queue.give_backs() == []


def test_a_checkpoint_is_found_by_the_next_attempt(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.train) as driver:
        config = {"log": str(fleet.log), "gate": str(fleet.folder / "gate"), "steps": 6, "until": 3}
        driver.submit([config])
        first = fleet.worker("--campaign", campaign)
        wait_until(lambda: told(did="saved", step=3))
        queue = fleet.queue(campaign)
        wait_until(lambda: (queue.checkpoints_of([1])[0] or "").startswith("1 4 "))
        first.kill()
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=30)
        assert job.result == 4
        assert [line["step"] for line in told(did="saved")] == list(range(6))
        wait_until(lambda: not _job_folders(fleet, campaign))
        assert queue.checkpoints_of([1]) == [None]


def test_the_checkpoint_of_a_failed_job_is_there_for_its_retry(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.train) as driver:
        driver.submit([{"log": str(fleet.log), "steps": 2, "fail": 1}])
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=30)
        assert job.state == "failed"
        assert _job_folders(fleet, campaign)
        fleet.cli("retry", campaign)
    with fleet.driver(campaign, running_jobs.train) as driver:
        driver.submit([{"log": str(fleet.log), "steps": 2, "fail": 1}])
        assert driver.gather("ALL", timeout=30)[0].result == 2
        wait_until(lambda: not _job_folders(fleet, campaign))


def test_a_cancelled_job_leaves_no_checkpoint(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.train) as driver:
        driver.submit([{"log": str(fleet.log), "gate": "/nowhere", "steps": 2, "until": 0}])
        fleet.worker("--campaign", campaign)
        wait_until(lambda: told(did="saved"))
        queue = fleet.queue(campaign)
        wait_until(lambda: queue.checkpoints_of([1])[0])
        assert driver.cancel() == 1
        wait_until(lambda: not _job_folders(fleet, campaign))


def _job_folders(fleet, campaign):
    return list((fleet.home / "checkpoints").glob(f"{campaign}-*/*"))


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_working_folder_goes_with_its_attempt(fleet, campaign, told, method):
    with fleet.driver(campaign, running_jobs.in_a_folder, method) as driver:
        driver.submit([{"log": str(fleet.log)}, {"log": str(fleet.log), "fail": True}])
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=30)
        folders = {line["folder"] for line in told(did="folder")}
        assert len(folders) == 2
        wait_until(lambda: not any(Path(folder).exists() for folder in folders))


def test_the_folder_of_a_failed_attempt_may_be_kept(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.in_a_folder, keep_folders=True) as driver:
        driver.submit([{"log": str(fleet.log)}, {"log": str(fleet.log), "fail": True}])
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=30)
        good, bad = (Path(told(did="folder", job=job)[0]["folder"]) for job in (1, 2))
        wait_until(lambda: not good.exists())
        assert (bad / "file").read_text() == "x"


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_a_job_knows_itself(fleet, campaign, method):
    with fleet.driver(campaign, running_jobs.facts, method, time_limit=100) as driver:
        driver.submit([{"x": 1}, {"x": 2}], slots=2)
        fleet.worker("--campaign", campaign, "--name", f"w-{campaign}", slots=2)
        for job in driver.gather("ALL", timeout=30):
            assert 90 < job.result.pop("remaining_s") <= 100
            assert job.result == {
                "id": job.id, "campaign": campaign, "attempt": 1, "config": {"x": job.id, "id": job.id},
                "worker": f"w-{campaign}", "slots": 2,
            }  # fmt: skip


def test_the_end_of_the_worker_is_known_inside(fleet, campaign):
    with fleet.driver(campaign, running_jobs.facts) as driver:
        driver.submit([{}])
        fleet.worker("--campaign", campaign, "--time-limit", "200s")
        assert 150 < driver.gather("ALL", timeout=30)[0].result["remaining_s"] <= 200


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_threads_and_forks_report_for_their_job(fleet, campaign, method):
    with fleet.driver(campaign, running_jobs.report_from_everywhere, method) as driver:
        driver.submit([{}])
        fleet.worker("--campaign", campaign, slots=2)
        (job,) = driver.gather("ALL", timeout=30)
        assert job.result == 3
        reports = _reports(fleet.queue(campaign), 1)
        assert sorted((report.step, *report.values) for report in reports) == [
            (1, "thread"), (2, "fork"), (3, "main")
        ]  # fmt: skip


def test_a_fork_may_give_the_attempt_back(fleet, campaign, told):
    with fleet.driver(campaign, running_jobs.hang_in_a_fork_that_gives_back) as driver:
        driver.submit([{"log": str(fleet.log)}])
        fleet.worker("--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=30)
        assert (job.result, job.attempts, job.releases) == (2, 1, 1)


@pytest.fixture
def short_folder():
    """A folder for temporary files: the path of a socket in it must not be long."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


def test_a_worker_that_has_run_nothing_has_no_temporary_folder(fleet, campaign, short_folder):
    """Nobody would remove it, should the worker be killed: its guard starts with the first job."""
    with fleet.driver(campaign, running_jobs.report_and_wait):
        worker = fleet.worker("--campaign", campaign, TMPDIR=str(short_folder))
        wait_until(lambda: fleet.queue(campaign).snapshot().workers)
        assert not list(short_folder.iterdir())
        worker.kill()


def test_nothing_is_left_of_a_killed_worker(fleet, campaign, told, short_folder):
    with fleet.driver(campaign, running_jobs.report_and_wait) as driver:
        driver.submit([{"log": str(fleet.log), "gate": str(fleet.folder / "gate")}])
        worker = fleet.worker("--campaign", campaign, TMPDIR=str(short_folder))
        (line,) = wait_until(lambda: told(did="reported"))
        assert list(short_folder.iterdir())
        worker.kill()
        wait_until(lambda: not is_running(line["pid"]) and not list(short_folder.iterdir()))
