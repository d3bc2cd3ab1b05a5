"""Real workers on a real server: how they begin, end, share, and hear of things."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import warnings

import pytest

from queue_eval.campaign.registry import MAX_CARD_REFUSALS
from queue_eval.model.states import State
from queue_eval.server.lifecycle import start_server, stop_server
from tests.support.cli import Filled
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import check_all_recorded, end, stop_now, wait_registered, wait_state
from tests.support.marks import long, soak
from tests.support.told import gather_until_told
from tests.support.waiting import wait_until
from workers.listener import _BLOCK_S


def test_the_first_sigterm_finishes_what_runs(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2)])
        worker = fleet.worker("--campaign", campaign)
        fleet.wait_begun(1)
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in fleet.output_of(worker))
        fleet.open_gate()
        assert worker.wait(20) == 0
        assert driver.gather("BATCH", 1, timeout=10)[0].result == 1
        queue = fleet.queue(campaign)
        assert queue.snapshot().counts[State.PENDING] == 1
        assert queue.snapshot().workers == []
        assert fleet.begun() == {1: 1}


@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
def test_the_second_sigterm_releases_what_runs(fleet, campaign, method):
    with fleet.driver(campaign, method=method, max_losses=1) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2), fleet.gated(3)])
        first = fleet.worker("--campaign", campaign, slots=2)
        fleet.wait_begun(1, 2)
        children = {int(line[2]) for line in fleet.lines()}
        stop_now(first, fleet)
        assert first.wait(20) == 0
        queue = fleet.queue(campaign)
        assert queue.snapshot().counts[State.PENDING] == 3
        assert not any(is_running(pid) for pid in children)
        fleet.open_gate()
        fleet.worker("--campaign", campaign, slots=2)
        jobs = {job.id: job for job in driver.gather("ALL", timeout=30)}
        assert {(job.state, job.result, job.attempts, job.releases) for job in jobs.values()} == {
            ("succeeded", 1, 1, 1), ("succeeded", 2, 1, 1), ("succeeded", 3, 1, 0)
        }  # fmt: skip
        assert f"job 1 of {campaign} (attempt 1) is given back: drain: SIGTERM" in fleet.output_of(first)
        shown = fleet.cli("job", campaign, "1").stdout
        assert "attempts   1, and 1 given back" in shown
        assert "given back: drain: SIGTERM" in shown
        check_all_recorded(queue, 3)


def test_a_worker_is_drained_from_the_command_line(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2)])
        worker = fleet.worker("--name", f"w-{campaign}", "--campaign", campaign)
        fleet.wait_begun(1)
        assert fleet.cli("workers", "stop", f"w-{campaign}").returncode == 0
        wait_until(lambda: "draining" in fleet.output_of(worker))
        # This signal is the first: what runs is finished.
        worker.send_signal(signal.SIGTERM)
        fleet.open_gate()
        assert worker.wait(20) == 0
        assert fleet.finished() == {1: 1}
        # The name is free again, and its former request to drain forgotten.
        fleet.worker("--name", f"w-{campaign}", "--campaign", campaign)
        assert len(driver.gather("ALL", timeout=30)) == 2


def test_a_worker_ends_when_it_has_been_idle(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1, sleep_s=0.6)])
        worker = fleet.worker("--campaign", campaign, "--idle-timeout", "400ms")
        assert driver.gather("ALL", timeout=20)[0].result == 1
        assert worker.wait(20) == 0
        assert "idle for 0.4 s" in fleet.output_of(worker)


@pytest.mark.long
def test_a_worker_ends_within_its_time_limit(fleet, campaign):
    with fleet.driver(campaign, max_losses=1) as driver:
        driver.submit([fleet.gated(1), fleet.gated(2)])
        worker = fleet.worker("--campaign", campaign, "--time-limit", "2s")
        fleet.wait_begun(1)
        assert worker.wait(20) == 0
        assert "the time limit of 2 s is near" in fleet.output_of(worker)
        assert fleet.queue(campaign).snapshot().counts[State.PENDING] == 2
        fleet.open_gate()
        fleet.worker("--campaign", campaign, slots=2)
        assert {job.state for job in driver.gather("ALL", timeout=20)} == {"succeeded"}


def test_a_worker_waits_for_its_server(own_fleet, campaign):
    fleet = own_fleet
    early = fleet.worker()
    wait_until(lambda: "waiting for" in fleet.output_of(early))
    start_server(fleet.home, keep=True)
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(1)])
        assert driver.gather("ALL", timeout=30)[0].result == 1
        assert end(early) == 0
        stop_server(fleet.home)
        late = fleet.worker()
        wait_until(lambda: "waiting for it" in fleet.output_of(late))
        start_server(fleet.home, keep=True)
        driver.submit([fleet.config(2)])
        assert driver.gather("ALL", timeout=30)[0].result == 2
    assert end(late) == 0


@pytest.mark.parametrize("method", ["process", "thread"])
def test_cancelling_stops_what_runs(fleet, campaign, method):
    """Promptly: the lease is long, so the worker has not learnt it by extending."""
    with fleet.driver(campaign, method=method) as driver:
        (job,) = driver.submit([fleet.gated(1)])
        fleet.worker("--campaign", campaign, lease="60s")
        fleet.wait_begun(1)
        child = int(fleet.lines()[0][2])
        assert driver.cancel([job]) == 1
        wait_until(lambda: not is_running(child))
        driver.submit([fleet.config(2)])
        states = {job.id: (job.state, job.cause) for job in driver.gather("ALL", timeout=20)}
        assert states[1][0] == "cancelled"
        assert states[2][0] == "succeeded"
        fleet.open_gate()
        assert fleet.finished() == {2: 1}


def test_a_paused_campaign_begins_nothing(fleet, campaign):
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.gated(1)])
        fleet.worker("--campaign", campaign)
        fleet.wait_begun(1)
        assert fleet.cli("pause", campaign).returncode == 0
        driver.submit([fleet.config(2)])
        fleet.open_gate()
        assert [job.id for job in driver.gather("BATCH", 1, timeout=20)] == [1]
        queue = fleet.queue(campaign)
        wait_state(queue, State.PENDING, 1)
        assert driver.gather("ALL", timeout=0.5) == []
        assert fleet.cli("resume", campaign).returncode == 0
        assert [job.id for job in driver.gather("ALL", timeout=20)] == [2]


def test_campaigns_share_a_worker_and_none_starves(fleet, campaign):
    """One slot, two campaigns with work for long: they take turns."""
    name = f"shared-{campaign}"
    other = f"{campaign}-other"
    with fleet.driver(campaign) as one, fleet.driver(other, method="thread") as two:
        one.submit([fleet.config(1, sleep_s=0.02)] * 30)
        two.submit([fleet.config(2, sleep_s=0.02)] * 30)
        fleet.worker("--name", name, "--campaign", campaign, "--campaign", other)
        queues = [fleet.queue(campaign), fleet.queue(other)]
        wait_until(lambda: sum(q.snapshot().counts[State.SUCCEEDED] for q in queues) >= 30)
        done = [queue.snapshot().counts[State.SUCCEEDED] for queue in queues]
        assert min(done) >= 10, done
        assert len(one.gather("ALL", timeout=30)) == len(two.gather("ALL", timeout=30)) == 30


def test_a_new_campaign_is_noticed_at_once(fleet, campaign):
    """The lease is long, so the worker has not learnt it with a heartbeat."""
    worker = fleet.worker(lease="10m")
    wait_until(lambda: "slots for all campaigns" in fleet.output_of(worker))
    for i in range(3):
        with fleet.driver(f"{campaign}-{i}") as driver:
            driver.submit([fleet.config(i)])
            assert driver.gather("ALL", timeout=15)[0].result == i


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("finished", [True, False], ids=["beside-a-finished-one", "beside-an-open-one"])
def test_one_job_after_the_other_is_heard_of_at_once(fleet, campaign, in_flight, finished):
    """Also by a worker that blocks on the markers of other campaigns meanwhile."""
    with fleet.driver(f"{campaign}-other") as other, fleet.driver(campaign) as driver:
        other.submit([fleet.config(0)])
        fleet.worker(lease="30s", slots=2)
        assert other.gather("ALL", timeout=20)
        if finished:
            other.close()
        took_s = []
        for step in range(6):
            began_at = time.monotonic()
            driver.submit([fleet.config(step * in_flight + i) for i in range(in_flight)])
            assert len(driver.gather("ALL", timeout=20)) == in_flight
            took_s.append(time.monotonic() - began_at)
    # A deaf one asks when a block ends, each time. The first may come at the end of one by chance.
    assert min(took_s[1:]) < _BLOCK_S / 2


def test_long_jobs_are_never_hoarded(fleet, campaign):
    with fleet.driver(campaign) as driver:
        workers = [fleet.worker("--name", f"{n}-{campaign}", "--campaign", campaign) for n in "ab"]
        wait_registered(fleet, *(f"{n}-{campaign}" for n in "ab"))
        driver.submit([fleet.gated(x) for x in range(4)])
        # Both work at once, and the rest waits on the server.
        wait_until(lambda: len(fleet.begun()) == 2)
        assert fleet.queue(campaign).snapshot().counts[State.PENDING] == 2
        fleet.open_gate()
        assert len({job.worker for job in driver.gather("ALL", timeout=20)}) == 2
        assert {worker.poll() for worker in workers} == {None}


@pytest.mark.parametrize("method", ["process", *long("thread")])
def test_a_long_job_among_short_ones_holds_up_none(fleet, campaign, method):
    """Short jobs are leased many at a time; those caught behind a long one go to whoever is idle."""
    with fleet.driver(campaign, method=method) as driver:
        first = fleet.worker("--campaign", campaign, slots=1)
        driver.submit([fleet.config(x) for x in range(300)])
        driver.gather("ALL", timeout=30)
        driver.submit([fleet.gated(1)] + [fleet.config(x) for x in range(50)])
        fleet.wait_begun(301)
        fleet.worker("--campaign", campaign, slots=1)
        wait_until(lambda: fleet.queue(campaign).snapshot().counts[State.SUCCEEDED] == 350)
        assert fleet.queue(campaign).snapshot().counts[State.RUNNING] == 1
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=20)) == 51
        assert end(first) == 0
        check_all_recorded(fleet.queue(campaign), 351)
        assert set(fleet.finished().values()) == {1}


def test_output_is_shown_with_the_job(fleet, campaign):
    with fleet.driver(campaign, max_attempts=2) as driver:
        good, bad = fleet.config(1, print="what it says \N{SNOWMAN}"), fleet.config(2, **{"raise": "why"})
        driver.submit([good, bad])
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=20)
    good, bad = (fleet.cli("job", campaign, str(job), "--json").stdout for job in (1, 2))
    assert "what it says \N{SNOWMAN}" in json.dumps(json.loads(good), ensure_ascii=False)
    assert bad.count("ValueError: why") >= 2
    assert fleet.begun()[2] == 2


def test_code_signed_with_another_key_is_not_run(fleet, campaign, tmp_path):
    marker = tmp_path / "was run"

    def by_value(config, marker=str(marker)):
        import pathlib

        pathlib.Path(marker).touch()
        return config["x"]

    with fleet.driver(campaign, by_value) as driver, fleet.driver(f"{campaign}-safe") as safe:
        driver.submit([{"x": 1}])
        url = json.loads((fleet.home / "access.json").read_text())["url"]
        stranger = fleet.worker(
            "--name", f"stranger-{campaign}", home=tmp_path / "elsewhere", QUEUE_EVAL_URL=url,
            QUEUE_EVAL_KEY="not the key",
        )  # fmt: skip
        wait_until(lambda: "is not served: the signature" in fleet.output_of(stranger))
        # It lives, and serves what needs no signature.
        safe.submit([fleet.config(2)])
        assert safe.gather("ALL", timeout=20)[0].worker == f"stranger-{campaign}"
        assert not marker.exists()
        told_of = "(does not serve|has stepped aside from)"  # the latter while others serve
        refusal = re.compile(f"worker stranger-{campaign} {told_of} .* signature")

        def told() -> bool:
            return any(refusal.search(str(warning.message)) for warning in said)

        # On a slow machine it may first be said that nobody serves the campaign.
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wait_until(lambda: driver.gather("ALL", timeout=0.5) or told())
        assert told()
        assert not marker.exists()
        fleet.worker("--name", f"friend-{campaign}", "--campaign", campaign)
        (job,) = driver.gather("ALL", timeout=20)
        assert (job.result, job.worker) == (1, f"friend-{campaign}")


@pytest.mark.parametrize("name", ["a", "z"])
def test_many_abandoned_campaigns_hide_no_refusal(own_fleet, name):
    """A worker tells of so many campaigns that it refuses: of the newest."""
    start_server(own_fleet.home, keep=True)
    abandoned = [Filled(own_fleet.home, f"m{number}") for number in range(MAX_CARD_REFUSALS + 5)]
    try:
        for one in abandoned:
            one.submit({"x": 1})
        with own_fleet.driver(name) as driver:
            driver.submit([own_fleet.config(1)])
            own_fleet.worker("--name", "strict", "--allow", "search")
            jobs, _ = gather_until_told(driver, f"worker strict does not serve campaign '{name}'")
            assert jobs == []
    finally:
        for one in abandoned:
            one.link.close()


def test_a_name_is_used_by_one_worker_at_a_time(fleet, campaign):
    first = fleet.worker("--name", f"one-{campaign}", "--campaign", campaign)
    wait_registered(fleet, f"one-{campaign}")
    second = fleet.worker("--name", f"one-{campaign}", "--campaign", campaign)
    assert second.wait(20) == 2
    (line,) = (x for x in fleet.output_of(second).splitlines() if x.startswith("queue-eval:"))
    assert f"a worker named 'one-{campaign}' is running already (pid {first.pid})" in line
    assert end(first, signal.SIGKILL) != 0
    with fleet.driver(campaign) as driver:
        third = fleet.worker("--name", f"one-{campaign}", "--campaign", campaign)
        driver.submit([fleet.config(3)])
        assert driver.gather("ALL", timeout=20)[0].result == 3
    assert end(third) == 0


def test_a_reopened_campaign_runs_the_code_as_it_is_then(fleet, campaign, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = tmp_path / f"code_{os.getpid()}.py"
    module.write_text("def run(config): return 'old'\n")
    fleet.worker("--campaign", campaign)
    with fleet.driver(campaign, f"{module.stem}:run") as driver:
        driver.submit([{"x": 1}])
        assert driver.gather("ALL", timeout=20)[0].result == "old"
    module.write_text("def run(config): return 'the new one'\n")
    with pytest.warns(UserWarning, match="changed"):
        again = fleet.driver(campaign, f"{module.stem}:run")
    with again as driver:
        driver.submit([{"x": 2}])
        (job,) = driver.gather("ALL", timeout=20)
        assert job.result == "the new one"
