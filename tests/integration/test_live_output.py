"""What running attempts print reaches the server, through real workers."""

from __future__ import annotations

import signal

import psutil
import pytest

from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.server.lifecycle import start_server
from tests.support import printing_jobs
from tests.support.cli import cli_here
from tests.support.fault_fleet import kill_server
from tests.support.marks import long
from tests.support.ray_cluster import RayCluster
from tests.support.rq_fleet import RqFleet, RqRedis
from tests.support.waiting import wait_until


def live(queue, job=1):
    (output,) = queue.live_outputs_of([job])
    return output


def text_of(queue, job=1):
    output = live(queue, job)
    return "" if output is None else output.text.decode()


@pytest.fixture(params=["thread", "process", "subprocess", *long("ray", "rq")])
def method(request):
    """A method, and the options of a campaign that forwards to a cluster or fleet of its own."""
    if request.param == "ray":
        cluster = RayCluster(cpus=2)
        yield "ray", {"address": cluster.address, "num_cpus_per_task": 1}
        cluster.close()
    elif request.param == "rq":
        server = RqRedis()
        fleet = RqFleet(server.url, worker_class="rq.SimpleWorker", count=2)
        yield "rq", {"num_workers": 2, "rq_url": server.url, "rq_queue": fleet.queue}
        fleet.close()
        server.close()
    else:
        yield request.param, {}


def test_a_line_is_seen_while_the_attempt_runs(fleet, campaign, method):
    name, options = method
    with fleet.driver(campaign, printing_jobs.print_and_wait, name, **options) as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")} for _ in range(2)])
        fleet.worker("--campaign", campaign, slots=2)
        queue = fleet.queue(campaign)
        wait_until(lambda: text_of(queue, 1) and text_of(queue, 2), timeout_s=60)
        assert [text_of(queue, job) for job in (1, 2)] == ["first of 1\n", "first of 2\n"]
        assert [live(queue, job).attempt for job in (1, 2)] == [1, 1]
        fleet.open_gate()
        assert [job.result for job in driver.gather("ALL", timeout=60)] == ["done"] * 2
        assert queue.outputs_of([2]) == [b"first of 2\nlast of 2\n"]
        assert (queue.live_outputs_of([1, 2]), queue.live_heads()) == ([None] * 2, {})


@pytest.mark.parametrize("end", ["cancel", "kill", "stop", "purge"])
def test_it_goes_with_the_attempt(fleet, campaign, end):
    with fleet.driver(campaign, printing_jobs.print_and_wait, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        worker = fleet.worker("--campaign", campaign, "--lease", "2s")
        queue = fleet.queue(campaign)
        wait_until(lambda: text_of(queue))
        if end == "cancel":
            driver.cancel()
        elif end == "kill":
            worker.kill()
            queue.reclaim(grace_ms=0, worker=queue.snapshot().workers[0].worker)
            assert [one["output"] for one in queue.failures(1)] == ["first of 1\n"]
        elif end == "stop":
            worker.send_signal(signal.SIGTERM)
            wait_until(lambda: text_of(queue))
            fleet.open_gate()
            assert driver.gather("ALL", timeout=30)
        else:
            queue.purge()
        wait_until(lambda: live(queue) is None)
        assert queue.live_heads() == {}


def test_jobs_that_print_nothing_or_end_soon_make_no_call(fleet, campaign):
    with fleet.driver(campaign, printing_jobs.print_and_wait, "process") as driver:
        driver.submit([{"quick": True, "gate": ""} for _ in range(20)])
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=30)
        assert "extras" not in fleet.queue(campaign).meta()


def test_a_flood_stays_bounded(fleet, campaign):
    with fleet.driver(campaign, printing_jobs.flood, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        worker = psutil.Process(fleet.worker("--campaign", campaign).pid)
        queue = fleet.queue(campaign)
        wait_until(lambda: live(queue) is not None)
        before = worker.memory_info().rss
        first = live(queue)
        wait_until(lambda: live(queue).total > first.total + 50_000_000)
        assert len(live(queue).text) == LIVE_BYTES
        assert worker.memory_info().rss - before < 20_000_000
        fleet.open_gate()
        driver.gather("ALL", timeout=30)
        (output,) = queue.outputs_of([1])
        assert output.endswith(b"end of the flood\n")
        assert len(output) < 70_000


def test_it_goes_on_when_the_server_was_away(own_fleet, campaign):
    fleet = own_fleet
    with fleet.driver(campaign, printing_jobs.print_rows, "process") as driver:
        driver.submit([{"gate": str(fleet.folder / "gate")}])
        fleet.worker("--campaign", campaign)
        queue = fleet.queue(campaign)
        before = wait_until(lambda: live(queue))
        kill_server(fleet)
        start_server(fleet.home)
        wait_until(lambda: (now := live(queue)) is not None and now.total > before.total)
        rows = live(queue).text.decode().splitlines()
        numbers = [int(row.split()[1]) for row in rows[1:-1]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "nothing is missing or twice"
        fleet.open_gate()
        assert driver.gather("ALL", timeout=30)[0].state == "succeeded"


@pytest.mark.parametrize("name", ["process", "subprocess"])
def test_more_than_is_kept_is_in_a_file(own_fleet, campaign, name):
    fleet = own_fleet
    with fleet.driver(campaign, printing_jobs.count_to, name) as driver:
        driver.submit([{"rows": 30_000}, {"rows": 5}, {"rows": 30_000, "die": True}])
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=60)
        queue = fleet.queue(campaign)
        folder = fleet.home / "logs" / f"{campaign}-{queue.uid}"
        all_rows = [f"row {row}" for row in range(30_000)]
        for job in (1, 3):
            file = folder / f"{job}-1.log"
            assert file.read_text().splitlines() == all_rows
            output = queue.failures(3)[0]["output"].encode() if job == 3 else queue.outputs_of([1])[0]
            assert len(output) < 66_000
            assert f"the whole output is in {file} on ".encode() in output
        assert queue.outputs_of([2]) == [b"".join(b"row %d\n" % row for row in range(5))]
        assert not list(folder.glob("2-*"))
        shown = cli_here("logs", campaign, 1, home=fleet.home).stdout.splitlines()
        assert shown[0] == "row 0"
        assert shown[-1] == "row 29999"
        (gap,) = [line for line in shown if line.startswith("[… ")]
        assert str(folder / "1-1.log") in gap
        assert cli_here("purge", campaign, "--yes", home=fleet.home).returncode == 0
        assert not folder.exists()


def test_the_file_stays_when_the_worker_dies(own_fleet, campaign):
    fleet = own_fleet
    with fleet.driver(campaign, printing_jobs.count_to, "process") as driver:
        driver.submit([{"rows": 30_000, "gate": str(fleet.folder / "gate")}])
        worker = fleet.worker("--campaign", campaign)
        file = fleet.home / "logs" / f"{campaign}-{fleet.queue(campaign).uid}" / "1-1.log"
        wait_until(lambda: file.exists() and file.read_text().endswith("row 29999\n"))
        worker.kill()
        worker.wait()
        assert file.exists()
