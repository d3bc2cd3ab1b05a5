"""`explain` names the right reason for every entry of its list; each test makes the situation for real."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from queue_eval import Evaluator
from queue_eval.campaign.registry import card_of
from queue_eval.driver import chores
from queue_eval.driver.evaluators import ProcessPoolEvaluator
from queue_eval.model.states import Outcome, State
from queue_eval.views.explaining import Explainer, Explanation
from queue_eval.views.reasons import Kind
from tests.conftest import running_home
from tests.support.cli import cli, cli_here, complaint, document
from tests.support.executor_harness import is_running
from tests.support.fault_fleet import WORK, Fleet, end, wait_state
from tests.support.hand_worker import HandWorker
from tests.support.told import gather_until_told
from tests.support.waiting import wait_until

_Test = TypeVar("_Test", bound=Callable[..., None])
made: set[Kind] = set()
"""The kinds of which some test makes the situation."""


def makes(*kinds: Kind) -> Callable[[_Test], _Test]:
    made.update(kinds)
    return lambda test: test


def test_the_situation_of_every_kind_is_made():
    assert made == set(Kind)


@pytest.fixture(scope="module")
def _shared_home() -> Iterator[Path]:
    """A server of this module's own: workers of other tests would be reasons, too."""
    with running_home() as home:
        yield home


@pytest.fixture
def driver(fleet: Fleet, campaign: str) -> Iterator[Evaluator]:
    """A driver that starts no workers. No worker of another test serves what it leaves."""
    with fleet.driver(campaign) as driver:
        yield driver
        driver.close(cancel=True)


@pytest.fixture
def hand(server: Path, campaign: str, driver: Evaluator) -> Iterator[HandWorker]:
    worker = HandWorker(server, campaign)
    yield worker
    worker.close()


def explained(fleet: Fleet, campaign: str, job: int | None = None) -> Explanation:
    explainer = Explainer(fleet.queue(campaign))
    return explainer.campaign() if job is None else explainer.job(job)


def kinds(found: Explanation) -> list[Kind]:
    return [reason.kind for reason in found.reasons]


def wait_for(kind: Kind, fleet: Fleet, campaign: str, job: int | None = None) -> str:
    """Waits until this is the first reason, and gives its text."""

    def text() -> str | None:
        first = explained(fleet, campaign, job).reasons[0]
        return first.text if first.kind is kind else None

    found = wait_until(text)
    assert isinstance(found, str)
    return found


def spelled(fleet: Fleet, command: str) -> str:
    """As a sentence of a link to this home spells a command of a campaign."""
    words = command.split()
    if words[0] == "worker":
        at = words.index("--campaign")
        words[at:at] = ["--home", str(fleet.home)]
    else:
        words += ["--home", str(fleet.home)]
    return " ".join(["queue-eval", *words])


# Nobody serves -------------------------------------------------------------------------------------------


@makes(Kind.EMPTY, Kind.NO_WORKER)
def test_no_worker(fleet, driver, campaign):
    (empty,) = explained(fleet, campaign).reasons
    assert (empty.kind, empty.sentence) == (Kind.EMPTY, f"campaign '{campaign}' has no jobs yet")
    driver.submit([fleet.config(0), fleet.config(1)])
    start = f"start a worker with: {spelled(fleet, f'worker --campaign {campaign}')}"
    for job in (None, 1):
        (reason,) = explained(fleet, campaign, job).reasons
        assert reason.kind is Kind.NO_WORKER
        assert reason.text == f"2 jobs of campaign '{campaign}' wait, and nobody serves it; {start}"


def test_a_driver_status_and_doctor_say_the_same(fleet, driver, campaign, monkeypatch):
    monkeypatch.setattr(chores, "UNSERVED_S", 0.2)
    monkeypatch.setattr(chores, "LOOK_EVERY_S", 0.05)
    monkeypatch.setenv("QUEUE_EVAL_HOME", str(fleet.home))
    driver.submit([fleet.config(0)])
    (reason,) = explained(fleet, campaign).reasons
    _, said = gather_until_told(driver, "nobody serves it")
    assert said == [reason.text]
    assert cli_here("status", campaign, home=fleet.home).stdout.count(f"\n{reason.text}\n") == 1
    assert document(cli_here("resume", campaign, "--json", home=fleet.home))["unserved"] == reason.text
    details = [one["detail"] for one in document(cli_here("doctor", "--json", home=fleet.home))["checks"]]
    assert details.count(reason.text) == 1


@pytest.mark.filterwarnings("ignore:.* nobody serves it")
@makes(Kind.WRONG_LABEL)
def test_workers_of_other_labels(fleet, campaign):
    with fleet.driver(campaign, queue="gpu") as driver:
        driver.submit([fleet.config(0)])
        fleet.worker("--name", "labelled", "--queue", "cpu", "--queue", "tpu")
        text = wait_for(Kind.WRONG_LABEL, fleet, campaign, 1)
        why = "nobody serves it: its label is 'gpu', and worker labelled serves 'cpu', 'tpu'; start a worker"
        assert why in text
        fleet.worker("--name", "general")
        both = "worker general serves campaigns without a label, worker labelled serves"
        wait_until(lambda: both in wait_for(Kind.WRONG_LABEL, fleet, campaign))
        driver.close(cancel=True)


@pytest.mark.filterwarnings("ignore:worker strict")
@makes(Kind.REFUSED)
def test_a_worker_that_refuses(fleet, driver, campaign):
    driver.submit([fleet.config(0)])
    fleet.worker("--name", "strict", "--allow", "search")
    text = wait_for(Kind.REFUSED, fleet, campaign, 1)
    assert "nobody serves it: worker strict does not (" in text
    assert f"mend that, or start another with: {spelled(fleet, f'worker --campaign {campaign}')}" in text


@pytest.mark.long
def test_a_worker_that_refuses_while_another_serves(fleet, driver, campaign):
    driver.submit([fleet.gated(0)])
    fleet.worker("--name", "strict", "--allow", "search")
    wait_for(Kind.REFUSED, fleet, campaign)
    fleet.worker("--campaign", campaign)  # as it says
    fleet.wait_begun(1)
    refused, goes_on = explained(fleet, campaign).reasons
    assert (refused.kind, goes_on.kind) == (Kind.REFUSED, Kind.GOES_ON)
    assert refused.sentence.startswith(f"worker strict has stepped aside from campaign '{campaign}': ")


@makes(Kind.DRAINING)
def test_a_worker_that_drains(fleet, driver, campaign):
    driver.submit([fleet.gated(0), fleet.config(1)])
    worker = fleet.worker("--campaign", campaign, "--name", f"{campaign}-w")
    fleet.wait_begun(1)
    worker.send_signal(signal.SIGTERM)
    text = wait_for(Kind.DRAINING, fleet, campaign, 2)
    assert f"nobody serves it: worker {campaign}-w ends and takes no more (draining); start another" in text
    assert explained(fleet, campaign, 1).reasons[0].kind is Kind.RUNNING
    fleet.open_gate()
    assert worker.wait(20) == 0


@makes(Kind.STARTING)
def test_a_worker_that_is_being_started(fleet, campaign):
    """From the moment when its driver announces it until it signs on."""
    with fleet.driver(campaign, local_workers=True) as driver:
        driver.submit([fleet.gated(0)])
        text = wait_for(Kind.STARTING, fleet, campaign, 1)
        assert f"being started for campaign '{campaign}'; wait for some seconds" in text
        wait_state(fleet.queue(campaign), State.RUNNING, 1)
        assert kinds(explained(fleet, campaign)) == [Kind.GOES_ON]
        driver.close(cancel=True)


# A worker serves, and jobs wait --------------------------------------------------------------------------


@makes(Kind.PAUSED)
def test_a_pause(fleet, driver, campaign, hand):
    driver.submit([fleet.config(0), fleet.config(1)])
    hand.lease(1)
    cli_here("pause", campaign, home=fleet.home)
    for job in (None, 2):
        reason = explained(fleet, campaign, job).reasons[0]
        assert reason.kind is Kind.PAUSED
        assert reason.advice == f"let it go on with: {spelled(fleet, f'resume {campaign}')}"
    assert kinds(explained(fleet, campaign)) == [Kind.PAUSED, Kind.GOES_ON]
    assert kinds(explained(fleet, campaign, 2)) == [Kind.PAUSED]


@makes(Kind.BUSY_ELSEWHERE)
def test_workers_busy_with_another_campaign(fleet, driver, campaign):
    fleet.worker("--name", "shared", lease="1s")
    with fleet.driver(f"{campaign}-other") as other:
        other.submit([fleet.gated(0)])
        fleet.wait_begun(1)
        driver.submit([fleet.config(1)])
        text = wait_for(Kind.BUSY_ELSEWHERE, fleet, campaign, 1)
        busy = f"the only worker that serves campaign '{campaign}' is busy with jobs of other campaigns; "
        assert text.startswith(f"{busy}wait, or start another with: queue-eval worker")
        assert kinds(explained(fleet, campaign)) == [Kind.BUSY_ELSEWHERE]
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=20)) == len(other.gather("ALL", timeout=20)) == 1


class Limited(ProcessPoolEvaluator):
    _most_running = 1


@makes(Kind.LIMIT)
def test_a_limit_on_what_runs(fleet, campaign):
    with Limited(WORK, home=fleet.home, campaign=campaign, local_workers=False) as driver:
        fleet.worker("--campaign", campaign, slots=3)
        driver.submit([fleet.gated(0), fleet.config(1)])
        fleet.wait_begun(1)
        text = wait_for(Kind.LIMIT, fleet, campaign, 2)
        assert text.startswith(f"campaign '{campaign}' lets 1 job run at a time, and 1 runs; wait, or open")
        assert kinds(explained(fleet, campaign)) == [Kind.LIMIT, Kind.GOES_ON]
        fleet.open_gate()
        assert len(driver.gather("ALL", timeout=20)) == 2
        assert kinds(explained(fleet, campaign)) == [Kind.FINISHED]


@makes(Kind.TOO_WIDE)
def test_a_job_that_is_too_wide(fleet, driver, campaign):
    fleet.worker("--campaign", campaign)
    driver.submit([fleet.config(0)], slots=3)
    text = wait_for(Kind.TOO_WIDE, fleet, campaign, 1)
    start = spelled(fleet, f"worker -n 3 --campaign {campaign}")
    why = f"takes 3 slots, and no worker that serves it has more than 1; start one with: {start}"
    assert text == f"job 1 {why}"
    assert [reason.text for reason in explained(fleet, campaign).reasons] == [f"a job {why}"]


@makes(Kind.TOO_LITTLE_TIME)
def test_a_job_that_asks_for_more_time_than_there_is(fleet, driver, campaign):
    name = f"{campaign}-short"
    fleet.worker("--campaign", campaign, "--name", name, "--time-limit", "10m")
    queue = fleet.queue(campaign)
    card = wait_until(lambda: card_of(queue.link, name))
    seen_at = time.monotonic()
    wait_until(lambda: time.monotonic() > seen_at + 1.1)  # its card tells whole seconds
    driver.submit([fleet.config(0)], time_request=3600)
    driver.submit([fleet.config(0)], time_request=card.longest_job_s)
    ever, now = (explained(fleet, campaign, job).reasons for job in (1, 2))
    assert [reason.kind for reason in (*ever, *now)] == [Kind.TOO_LITTLE_TIME] * 2
    assert ever[0].sentence.startswith("job 1 asks for 3600 s (time_request), and no worker that serves it")
    assert f"job 2 asks for {card.longest_job_s:.0f} s (time_request), and the worker with the" in now[0].text
    assert kinds(explained(fleet, campaign)) == [Kind.TOO_LITTLE_TIME] * 2


@makes(Kind.CHECKPOINT_ELSEWHERE)
def test_a_checkpoint_that_no_worker_sees(fleet, driver, campaign, hand):
    driver.submit([fleet.config(0), fleet.config(1)])
    (lease,) = hand.lease(1)
    hand.report(lease, checkpoint="1 0123456789abcdef")
    hand.give_back(lease)
    hand.lease(1, place="fedcba9876543210")
    left, behind = explained(fleet, campaign, 1).reasons
    assert (left.kind, behind.kind) == (Kind.CHECKPOINT_ELSEWHERE, Kind.BEHIND)
    assert left.sentence.startswith("job 1 is left to workers that see its checkpoint, since 20")
    assert left.advice.endswith("or name a folder that all share (checkpoints=)")
    assert explained(fleet, campaign).reasons[0] == left
    (lease,) = hand.lease(1, place="fedcba9876543210")
    running, anew = explained(fleet, campaign, 1).reasons
    assert (running.kind, anew.kind) == (Kind.RUNNING, Kind.CHECKPOINT_ELSEWHERE)
    assert anew.sentence == "job 1 began anew with attempt 2: its worker does not see the checkpoint"


@makes(Kind.GIVEN_BACK_OFTEN)
def test_a_job_that_never_gets_anywhere(fleet, driver, campaign, hand):
    driver.submit([fleet.config(0)])
    for _ in range(10):
        (lease,) = wait_until(lambda: hand.lease(1))
        hand.give_back(lease, "drain: the time limit is near")
    often, behind = explained(fleet, campaign, 1).reasons
    assert (often.kind, behind.kind) == (Kind.GIVEN_BACK_OFTEN, Kind.BEHIND)
    assert often.sentence.startswith("job 1 was given back 10 times in a row without a new checkpoint")
    assert explained(fleet, campaign).reasons == [often]
    lines = explained(fleet, campaign, 1).attempt_lines()
    assert len(lines) == 10
    assert lines[0].startswith(f"attempt 1 on {hand.name}")
    assert lines[0].endswith(" was given back: drain: the time limit is near")


@makes(Kind.DELAYED)
def test_jobs_that_are_delayed(fleet, campaign):
    with fleet.driver(campaign, max_attempts=2, retry_delay=600) as driver:
        driver.submit([fleet.config(0, **{"raise": "not yet"})])
        driver.submit([fleet.config(0)], delay=3600)
        fleet.worker("--campaign", campaign)
        wait_state(fleet.queue(campaign), State.SCHEDULED, 2)
        (again,), (delayed,) = (explained(fleet, campaign, job).reasons for job in (1, 2))
        assert (again.kind, delayed.kind) == (Kind.DELAYED, Kind.DELAYED)
        assert ": attempt 1 failed (error), and it is tried again then: ValueError: not yet" in again.sentence
        assert re.search(" UTC, in (59m|1h00m)", delayed.sentence)
        assert delayed.sentence.endswith(": it was submitted with a delay")
        (both,) = explained(fleet, campaign).reasons
        assert both.kind is Kind.DELAYED
        assert both.sentence.startswith("2 jobs are delayed, the first of them until 20")
        assert re.search(r" UTC, in (9m|10m00s)", both.sentence)
        driver.close(cancel=True)


@makes(Kind.BEHIND, Kind.GOES_ON)
def test_jobs_behind_others(fleet, driver, campaign, hand):
    driver.submit([fleet.config(x) for x in range(6)])
    driver.submit([fleet.config(6)], slots=2)
    driver.submit([fleet.config(7)], priority=1)
    (first,) = hand.lease(1)
    assert first.id == 8
    (next_one,), (last,) = (explained(fleet, campaign, job).reasons for job in (1, 7))
    assert next_one.sentence.startswith("job 1 waits for a free slot and is the next to run: nobody can tell")
    assert last.kind is Kind.BEHIND
    assert last.sentence.startswith("job 7 waits for a free slot behind 6 others: nobody can tell how long")
    goes_on = explained(fleet, campaign).reasons[-1]
    assert goes_on.kind is Kind.GOES_ON
    assert goes_on.sentence == f"1 job of campaign '{campaign}' runs, 7 wait, nobody can tell yet how long"
    hand.finish(first)
    hand.lease(1)
    (last,) = explained(fleet, campaign, 7).reasons
    assert "behind 5 others: it is expected to begin in about " in last.sentence
    assert ", 6 wait, about " in explained(fleet, campaign).reasons[-1].sentence


# A worker holds it ---------------------------------------------------------------------------------------


@makes(Kind.ON_A_WORKER, Kind.RUNNING)
def test_what_a_worker_holds(fleet, driver, campaign, hand):
    driver.submit([fleet.config(x) for x in range(2)])
    runs, waits = hand.lease(1, prefetch=1)
    (waiting,) = explained(fleet, campaign, waits.id).reasons
    assert waiting.kind is Kind.ON_A_WORKER
    assert waiting.sentence.startswith(f"job 2 waits on {hand.name} at ")
    hand.report(runs, (1, {"loss": 0.5}), (2, {"loss": 0.25}), looks=True)
    driver.stop()
    (running,) = explained(fleet, campaign, runs.id).reasons
    assert running.kind is Kind.RUNNING
    assert f" on {hand.name} at " in running.sentence
    told = ", in attempt 1, and was asked to stop early; its last report is step 2 (loss=0.25)"
    assert told in running.sentence
    hand.finish(runs, 1, Outcome.STOPPED)
    (ended,) = explained(fleet, campaign, runs.id).reasons
    assert ended.sentence.startswith("job 1 succeeded early, as it was asked, after ")


@pytest.mark.filterwarnings("ignore:.* nobody serves it")
@makes(Kind.WORKER_LOST)
def test_a_job_of_a_dead_worker(fleet, driver, campaign, hand):
    driver.submit([fleet.gated(0), fleet.config(1)])
    worker = fleet.worker("--campaign", campaign, "--name", f"{campaign}-w", lease="1s")
    fleet.wait_begun(1)
    end(worker, signal.SIGKILL)
    text = wait_for(Kind.WORKER_LOST, fleet, campaign, 1)
    assert f"job 1 is held by {campaign}-w at " in text
    assert "which is dead or cut off: its lease ended " in text
    wait_for(Kind.NO_WORKER, fleet, campaign)  # its card may stay a moment longer than its lease
    assert hand.queue.reclaim(grace_ms=0).ids == [1]
    (lease,) = hand.lease(1)
    hand.finish(lease)
    lost, succeeded = explained(fleet, campaign, 1).attempt_lines()
    assert lost.startswith(f"attempt 1 on {campaign}-w at ")
    assert " was lost after " in lost
    assert lost.endswith(f": worker {campaign}-w died or was cut off while it ran this job")
    assert succeeded.startswith(f"attempt 2 on {hand.name} at ")
    assert " succeeded after " in succeeded
    wait_until(lambda: not is_running(worker.pid))


# The end -------------------------------------------------------------------------------------------------


@makes(Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED, Kind.FINISHED)
def test_how_jobs_ended(fleet, campaign):
    with fleet.driver(campaign, max_attempts=2, max_losses=1, time_limit=1, on_failure="value") as driver:
        fleet.worker("--campaign", campaign, "--name", f"{campaign}-w", slots=4)
        driver.submit([fleet.config(0), fleet.config(1, **{"raise": "bad x"}), fleet.config(2, poison=3)])
        driver.submit([fleet.config(3)], delay=3600)
        driver.gather("BATCH", 3, timeout=30)
        driver.cancel()
        found = [explained(fleet, campaign, job) for job in range(1, 5)]
        ends = [Kind.SUCCEEDED, Kind.FAILED, Kind.FAILED, Kind.CANCELLED]
        assert [kinds(one) for one in found] == [[kind] for kind in ends]
        succeeded, failed, lost, cancelled = (one.reasons[0].sentence for one in found)
        assert succeeded.startswith("job 1 succeeded after ")
        assert failed == "job 2 failed after 2 attempts: it raised ValueError: bad x"
        assert lost.startswith("job 3 failed after 1 attempt: what ran it died too often (max_losses): ")
        assert cancelled == "job 4 was cancelled while it waited"
        first, second = found[1].attempt_lines()
        assert first.startswith(f"attempt 1 on {campaign}-w at ")
        assert " failed after " in first
        assert second.endswith(": ValueError: bad x")
        (finished,) = explained(fleet, campaign).reasons
        sentence = f"all 4 jobs of campaign '{campaign}' are finished: 1 succeeded, 2 failed, 1 cancelled"
        assert finished.sentence == sentence
        assert f"run it again with: {spelled(fleet, f'retry {campaign}')}" in finished.advice


@pytest.mark.parametrize(
    ("outcome", "why", "verb"),
    [
        (Outcome.TIMEOUT, "it ran out of time (time_limit)", "ran out of time"),
        (Outcome.NAN, "it returned NaN", "returned NaN"),
        (Outcome.INF, "it returned an infinity", "returned an infinity"),
    ],
)
def test_other_causes_of_failure(fleet, driver, campaign, hand, outcome, why, verb):
    driver.submit([fleet.config(0)])
    (lease,) = hand.lease(1)
    hand.finish(lease, "what is on record", outcome)
    found = explained(fleet, campaign, 1)
    assert found.reasons[0].sentence == f"job 1 failed after 1 attempt: {why}: what is on record"
    (line,) = found.attempt_lines()
    assert f" {verb} after 1ms: what is on record" in line


# The command ---------------------------------------------------------------------------------------------


def test_the_command(fleet, driver, campaign, hand):
    driver.submit([fleet.config(0), fleet.config(1)])
    (lease,) = hand.lease(1)
    hand.finish(lease, "Traceback\nValueError: \x1b[31mno", Outcome.ERROR)
    shown = cli("explain", campaign, 1, home=fleet.home)
    assert (shown.returncode, shown.stderr) == (0, "")
    sentence, advice, attempt = shown.stdout.splitlines()
    assert sentence == r"job 1 failed after 1 attempt: it raised ValueError: \x1b[31mno"
    assert advice.startswith(f"  see it whole with: queue-eval job {campaign} 1; run it again with: ")
    assert attempt.startswith(f"  attempt 1 on {hand.name}")
    told = document(cli_here("explain", campaign, 1, "--json", home=fleet.home))
    assert (told["campaign"], told["id"], told["state"], told["kind"]) == (campaign, 1, "failed", "failed")
    assert (told["sentence"], told["also"]) == (sentence, [])
    assert told["advice"] == advice.strip()
    (one,) = told["attempts"]
    assert (one["attempt"], one["cause"], one["sentence"]) == (1, "error", attempt.strip())
    whole = document(cli_here("explain", campaign, "--json", home=fleet.home))
    assert (whole["id"], whole["state"], whole["kind"], whole["attempts"]) == (None, None, "goes_on", [])
    assert "its ids are 1 to 2" in complaint(cli_here("explain", campaign, 3, home=fleet.home), 2)
    assert "no campaign 'nothing'" in complaint(cli_here("explain", "nothing", home=fleet.home), 1)


def test_many_attempts_are_not_all_shown(fleet, driver, campaign, hand):
    driver.submit([fleet.config(0)])
    for _ in range(23):
        (lease,) = wait_until(lambda: hand.lease(1))
        hand.give_back(lease)
    lines = cli_here("explain", campaign, 1, home=fleet.home).stdout.splitlines()
    assert "  3 earlier attempts are left out; --json has them" in lines
    assert lines[-1].startswith("  attempt 23 on ")
    assert len(document(cli_here("explain", campaign, 1, "--json", home=fleet.home))["attempts"]) == 23


def test_a_read_does_not_grow_with_the_jobs(fleet, driver, campaign, hand):
    driver.submit([fleet.config(x) for x in range(3)])

    def calls() -> dict[str, Any]:
        stats = hand.link.call(lambda client: client.info("commandstats"))
        return {name: stats[name]["calls"] for name in stats}

    def cost() -> int:
        queue = fleet.queue(campaign)
        before = calls()
        for job in (None, 2):
            explainer = Explainer(queue)
            explainer.campaign() if job is None else explainer.job(job)
        after = calls()
        return sum(after[name] - before.get(name, 0) for name in after if name != "cmdstat_info")

    def least() -> int:
        """What others do on this server meanwhile only adds to it."""
        return min(cost() for _ in range(5))

    few = least()
    driver.submit([fleet.config(x) for x in range(3000)])
    assert least() <= few + 20
