"""What commands tell of running jobs: reports, early stop, checkpoints; which checkpoints they remove."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from queue_eval import Evaluator
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.driver import service
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.model.states import Outcome
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.cli import cli_here, complaint, document, on_terminal
from tests.support.hand_worker import HandWorker
from tests.support.waiting import wait_until


@pytest.fixture
def open_driver(server):
    opened = []

    def start(name, home=server, **more):
        keywords = {"home": home, "campaign": name, "local_workers": False, "retry_delay": 0}
        opened.append(Evaluator.create("tests.support.functions:run", "process", keywords | more))
        return opened[-1]

    yield start
    for evaluator in opened:
        evaluator.close()


@pytest.fixture
def driver(open_driver, campaign):
    return open_driver(campaign)


@pytest.fixture
def worker(server, campaign, driver):
    worker = HandWorker(server, campaign)
    yield worker
    worker.close()


def submitted(driver, count):
    return driver.submit([{"x": x} for x in range(count)])


def folder_of(home, name, job=None):
    """Where the checkpoints of a campaign, or of a job, lie."""
    link = Link(find_access(None, home), name="test")
    _, meta = CampaignCommands.attach(link, name)
    link.close()
    folder = CheckpointDisk.of(name, meta).folder
    return folder if job is None else folder / str(job)


def save(home, name, job, checkpoint="1-1"):
    """A checkpoint of a job, as its worker has left it."""
    folder = folder_of(home, name, job) / checkpoint
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"x" * 1000)
    return folder.parent


# stop ------------------------------------------------------------------------------------------------------


def test_stop_says_who_looks(driver, worker, server, campaign):
    submitted(driver, 6)
    first, second, third = worker.lease(3)
    head, rest = cli_here("stop", campaign, home=server).stdout.splitlines()
    assert head == "asked 3 running jobs to stop early"
    assert rest.startswith("none of them looks at stop_requested so far, and they run on until then; end")
    assert f": queue-eval cancel {campaign}" in rest
    worker.report(first, looks=True)
    assert "\n1 of them looks at stop_requested so far, and the others" in cli_here(
        "stop", campaign, home=server
    ).stdout  # fmt: skip
    worker.report(second, looks=True)
    assert "\n2 of them look at stop_requested so far, and the others" in cli_here(
        "stop", campaign, home=server
    ).stdout  # fmt: skip
    assert cli_here("stop", campaign, 1, home=server).stdout == "asked 1 running job to stop early\n"
    shown = cli_here("stop", campaign, 3, 5, 6, home=server).stdout
    assert "; 2 have not begun, or finished before\nit does not look at stop_requested so far, and" in shown
    assert document(cli_here("stop", campaign, "--json", home=server)) == {
        "campaign": campaign, "asked": 3, "looking": 2,
    }  # fmt: skip
    assert worker.is_stopped(third)
    assert "no job 7" in complaint(cli_here("stop", campaign, 7, home=server), 2)


def test_stop_where_nothing_runs(driver, worker, server, campaign):
    submitted(driver, 1)
    assert cli_here("stop", campaign, home=server).stdout == "asked 0 running jobs to stop early\n"


# job, status -----------------------------------------------------------------------------------------------


def test_job_shows_what_it_has_told(driver, worker, server, campaign):
    submitted(driver, 1)
    silent = cli_here("job", campaign, 1, home=server).stdout
    assert "\nreports" not in silent
    assert "\ncheckpoint" not in silent
    (lease,) = worker.lease()
    worker.report(lease, (1, {"loss": 0.5}), (2, {"loss": math.nan, "size": 3}), dropped=4, looks=True)
    worker.report(lease, checkpoint="5 0123456789abcdef")
    driver.stop()
    shown = cli_here("job", campaign, 1, home=server).stdout
    assert "\nreports    2, and 4 dropped; the last: step 2, loss=nan, size=3\n" in shown
    assert "\ncheckpoint save 5 of attempt 1; not in its folder on this machine\n" in shown
    assert "\nstop       it was asked to stop early\n" in shown
    folder = save(server, campaign, 1, "1-5")
    assert f"\ncheckpoint save 5 of attempt 1; {folder / '1-5'}\n" in cli_here(
        "job", campaign, 1, home=server
    ).stdout  # fmt: skip
    told = document(cli_here("job", campaign, 1, "--json", home=server))
    assert told["reports"] == {
        "kept": 2,
        "dropped": 4,
        "last": {
            "step": 2, "values": {"loss": None, "size": 3}, "attempt": 1,
            "at": "2027-01-15T08:00:02.000+00:00",
        },
    }  # fmt: skip
    assert told["checkpoint"] == {
        "attempt": 1, "save": 5, "place": "0123456789abcdef", "path": str(folder / "1-5"),
    }  # fmt: skip
    assert (told["passed_over_since"], told["began_anew"]) == (None, None)
    assert (told["stop_asked"], told["given_back_in_a_row"], told["stopped_early"]) == (True, 0, False)
    worker.finish(lease, 7, Outcome.STOPPED)
    told = document(cli_here("job", campaign, 1, "--json", home=server))
    assert (told["state"], told["cause"], told["stopped_early"]) == ("succeeded", None, True)
    assert told["attempts_on_record"][-1]["outcome"] == "ok"
    shown = cli_here("job", campaign, 1, home=server).stdout
    assert "\nstate      succeeded early, as it was asked\n" in shown


def give_back_often(worker, times):
    for _ in range(times):
        (lease,) = wait_until(lambda: worker.lease(1))
        worker.give_back(lease)


def test_a_job_that_never_gets_anywhere_is_told_of(driver, worker, server, campaign, monkeypatch):
    submitted(driver, 1)
    give_back_often(worker, 9)
    assert document(cli_here("status", campaign, "--json", home=server))["given_back_in_a_row"] == []
    give_back_often(worker, 1)
    told = document(cli_here("status", campaign, "--json", home=server))
    assert told["given_back_in_a_row"] == [{"id": 1, "times": 10}]
    sentence = "given back 10 times in a row without a new checkpoint"
    assert f"\njob 1 was {sentence}" in cli_here("status", campaign, home=server).stdout
    assert "\ngiven back 10 times in a row without" in cli_here("job", campaign, 1, home=server).stdout
    monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.01)
    with pytest.warns(UserWarning, match=f"campaign '{campaign}': job 1 was {sentence}") as told:
        driver.gather("ALL", timeout=0.3)
    assert len(told) == 1


def test_of_many_such_jobs_some_are_named(driver, worker, campaign, server, monkeypatch):
    monkeypatch.setattr(service, "OFTEN_GIVEN_BACK", 1)
    monkeypatch.setattr("queue_eval.driver.chores.LOOK_EVERY_S", 0.01)
    count = service.MOST_TOLD_GIVEN_BACK + 3
    submitted(driver, count)
    for lease in worker.lease():
        worker.give_back(lease)
    with pytest.warns(UserWarning, match="given back") as told:
        driver.gather("ALL", timeout=0.3)
    lines = [str(warning.message) for warning in told]
    assert len(lines) == service.MOST_TOLD_GIVEN_BACK + 1
    assert lines[-1].startswith(f"campaign '{campaign}': more jobs are given back")


# Checkpoints that nobody needs -----------------------------------------------------------------------------


def test_job_shows_where_its_checkpoint_is_not_seen(driver, worker, server, campaign):
    submitted(driver, 2)
    (lease,) = worker.lease(1)
    worker.report(lease, checkpoint="1 0123456789abcdef")
    worker.give_back(lease)
    (other,) = worker.lease(1, place="fedcba9876543210")
    assert other.id == 2
    shown = cli_here("job", campaign, 1, home=server).stdout
    assert "\nwhy        job 1 is left to workers that see its checkpoint, since 2" in shown
    told = document(cli_here("job", campaign, 1, "--json", home=server))
    assert (told["passed_over_since"][:2], told["began_anew"]) == ("20", None)
    (lease,) = worker.lease(1, place="fedcba9876543210")
    shown = cli_here("job", campaign, 1, home=server).stdout
    assert "\nwhy        job 1 began anew with attempt 2: its worker does not see the checkpoint; " in shown
    assert " is left to " not in shown
    told = document(cli_here("job", campaign, 1, "--json", home=server))
    assert (told["passed_over_since"], told["began_anew"]) == (None, 2)


def test_cancelled_jobs_lose_their_checkpoints(driver, worker, server, campaign):
    jobs = submitted(driver, 4)
    kept, by_driver, by_command, left = (save(server, campaign, job.id) for job in jobs)
    driver.cancel([jobs[1]])
    assert not by_driver.exists()
    cli_here("cancel", campaign, 3, home=server)
    assert not by_command.exists()
    assert kept.exists()
    assert left.exists()


def test_a_checkpoint_that_cannot_be_removed_spoils_no_cancellation(driver, server, campaign, monkeypatch):
    (job,) = submitted(driver, 1)
    folder = save(server, campaign, 1)

    def fails(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("queue_eval.driver.checkpoint_disk.remove_tree", fails)
    assert driver.cancel([job]) == 1
    assert folder.exists()


def test_purge_and_prune_remove_them_too(open_driver, server, campaign):
    open_driver(campaign).submit([{"x": 1}])
    folder = save(server, campaign, 1)
    cli_here("purge", campaign, "--yes", home=server)
    assert not folder.parent.exists()
    driver = open_driver(None)
    name = driver.campaign
    driver.submit([{"x": 1}])
    worker = HandWorker(server, name)
    (lease,) = worker.lease()
    folder = save(server, name, 1)
    worker.finish(lease, "Traceback", Outcome.ERROR)
    worker.close()
    driver.gather("ALL", timeout=60)
    driver.close()
    assert folder.exists()  # for `retry`
    cli_here("campaigns", "--prune", "--older-than", "0s", home=server)
    assert not folder.parent.exists()


def test_checkpoints_in_a_folder_of_the_users(open_driver, server, campaign, tmp_path):
    driver = open_driver(campaign, checkpoints=tmp_path / "shared")
    jobs = driver.submit([{"x": 1}, {"x": 2}])
    folder = save(server, campaign, 1)
    other = save(server, campaign, 2)
    assert folder.is_relative_to(tmp_path / "shared")
    assert Evaluator.attach(campaign, home=server).cancel(jobs[:1]) == 1
    assert not folder.exists()
    assert other.exists()


def checkpoints_found(home, *words):
    found = document(cli_here("doctor", "--json", *words, home=home), os.EX_OK)
    (one,) = (check for check in found["checks"] if check["name"] == "checkpoints")
    return one


@pytest.fixture
def littered(own_home, open_driver):
    """A home with checkpoints of jobs in every state, of a campaign that keeps them, and of a purged one."""
    litter = {}
    for name, keeps in (("plain", False), ("keeping", True)):
        driver = open_driver(name, own_home, keep_checkpoints=keeps)
        jobs = driver.submit([{"x": x} for x in range(4)])
        worker = HandWorker(own_home, name)
        for lease, outcome in zip(worker.lease(2), (Outcome.OK, Outcome.ERROR), strict=True):
            worker.finish(lease, "1", outcome)
        worker.close()
        driver.cancel(jobs[2:3])
        for job, state in zip(jobs, ("succeeded", "failed", "cancelled", "pending"), strict=True):
            litter[name, state] = save(own_home, name, job.id)
    litter["purged"] = own_home / "checkpoints" / f"gone-{'a' * 16}"
    (litter["purged"] / "1" / "1-1").mkdir(parents=True)
    (own_home / "checkpoints" / "mine").mkdir()
    return litter


UNNEEDED = [("plain", "succeeded"), ("plain", "cancelled"), ("keeping", "cancelled"), "purged"]


def test_doctor_finds_and_removes_what_is_left(littered, own_home):
    found = checkpoints_found(own_home)
    assert found["status"] == "warn"
    assert found["detail"].startswith("4 folders of jobs that are over, 0.0 MB, such as ")
    assert "purged, or of another server: gone;" in found["detail"]
    assert checkpoints_found(own_home, "--clean") == found  # nobody could be asked
    assert all(folder.exists() for folder in littered.values())
    assert checkpoints_found(own_home, "--clean", "--yes")["detail"].endswith(": removed")
    for key, folder in littered.items():
        assert folder.exists() == (key not in UNNEEDED), key
    assert (own_home / "checkpoints" / "mine").exists()
    assert checkpoints_found(own_home)["status"] == "ok"
    assert "goes with --clean" in complaint(cli_here("doctor", "--yes", home=own_home), 2)


def test_doctor_asks_at_a_terminal(littered, own_home):
    on_terminal("doctor", "--clean", home=own_home, typed="n\n", status=0)
    assert all(folder.exists() for folder in littered.values())
    on_terminal("doctor", "--clean", home=own_home, typed="y\n", status=0)
    assert [key for key, folder in littered.items() if not folder.exists()] == UNNEEDED


def test_a_home_that_is_known_by_another_path(littered, own_home, tmp_path):
    """Its campaigns are known by their folders' names."""
    link = Link(find_access(None, own_home), name="test")
    for name in ("plain", "keeping"):
        queue, meta = CampaignCommands.attach(link, name)
        options = meta["options"].replace(str(own_home.resolve()).encode(), b"/elsewhere")
        link.call(lambda client, key=queue.keys.meta, options=options: client.hset(key, "options", options))
    link.close()
    checkpoints_found(own_home, "--clean", "--yes")
    assert [key for key, folder in littered.items() if not folder.exists()] == UNNEEDED


@pytest.mark.parametrize(
    "options",
    [b"", b"[]", b'{"checkpoints": null}', b'{"checkpoints": "relative", "keep_checkpoints": false}'],
)
def test_where_the_meta_names_no_folder_nothing_is_removed(options):
    meta = {"uid": b"0123456789abcdef", "options": options}
    assert CheckpointDisk.of("demo", meta) is None


@pytest.mark.parametrize("uid", [b"", b"../../x", b"0123/..", b"UPPER"])
def test_a_damaged_uid_names_no_folder(uid):
    options = b'{"checkpoints": "/tmp", "keep_checkpoints": false}'
    assert CheckpointDisk.of("demo", {"uid": uid, "options": options}) is None
    assert CheckpointDisk.of("../demo", {"uid": b"0" * 16, "options": options}) is None
    disk = CheckpointDisk.of("demo", {"uid": b"0" * 16, "options": options})
    assert disk.folder == Path("/tmp/demo-0000000000000000")
