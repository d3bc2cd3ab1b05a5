"""Local workers run jobs with what their driver has: its environment, working folder and interpreter.

Each test runs a driver, and at once another one of the same campaign, as a user who has mended something.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from queue_eval import Evaluator, WorkerError
from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.registry import LiveWorker, live_workers
from queue_eval.driver.local_workers import LocalWorkers
from queue_eval.model.moves import Settled
from queue_eval.model.states import State
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import find_access
from tests.support.cli import cli, cli_here
from tests.support.fault_fleet import ROOT, Fleet, wait_registered, wait_state
from tests.support.marks import long, soak
from tests.support.waiting import wait_until
from workers.options import WorkerOptions
from workers.worker import Worker

METHODS = ("thread", "process", "subprocess")

SEARCH = """
    import json
    import sys
    from queue_eval import Evaluator

    if __name__ == "__main__":
        home, campaign, method, configs, *wait = sys.argv[1:]
        keywords = {"home": home, "campaign": campaign, "num_workers": 1}
        with Evaluator.create("tests.support.launch_functions:tell", method, keywords) as evaluator:
            jobs = evaluator.submit(json.loads(configs))
            print("submitted", flush=True)
            if wait == ["leave"]:
                sys.exit()
            evaluator.gather("ALL", timeout=60)
            print(json.dumps([[job.result, job.worker, job.attempts] for job in jobs]), flush=True)
            if wait == ["stay"]:
                input()
"""


class Script:
    """The driver of one campaign, as a script that is run again and again."""

    def __init__(self, folder: Path, home: Path, campaign: str) -> None:
        self.folder, self.home, self.campaign = folder, home, campaign
        self.path = folder / "search.py"
        self.path.write_text(textwrap.dedent(SEARCH))
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *configs: dict[str, Any], method: str = "process", wait: str = "", cwd: Path | None = None,
        python: str = sys.executable, **environment: str,
    ) -> subprocess.Popen[str]:  # fmt: skip
        words = [str(self.home), self.campaign, method, json.dumps(configs), *filter(None, [wait])]
        process = subprocess.Popen(
            [python, str(self.path), *words], cwd=cwd or self.folder, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *configs: dict[str, Any], **how: Any) -> list[Any]:
        """(what the job told, its worker, its attempts) of each job."""
        output, errors = self.start(*configs, **how).communicate(timeout=90)
        assert errors == "", errors
        found: list[Any] = json.loads(output.splitlines()[-1])
        return found

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def script(tmp_path: Path, own_home: Path, campaign: str) -> Iterator[Script]:
    script = Script(tmp_path, own_home, campaign)
    yield script
    script.close()


def other_interpreter(folder: Path) -> str:
    """An environment that finds what this one has installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    return str(folder / "bin" / "python")


@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
def test_a_mended_environment_is_that_of_the_next_run(script, method):
    (before,) = script.run({"x": 1}, method=method, MARK="old")
    (again,) = script.run({"x": 2}, method=method, MARK="old")
    assert again[:2] == before[:2], "nothing has changed: the same worker serves"
    (after,) = script.run({"x": 3}, method=method, MARK="new")
    assert (before[0][0], after[0][0]) == ("old", "new")
    assert after[1] != before[1]


def test_a_variable_that_is_gone_is_gone(script):
    assert script.run({"x": 1}, MARK="old")[0][0][0] == "old"
    assert script.run({"x": 2})[0][0][0] == ""


def test_another_folder_is_that_of_the_next_run(script, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert script.run({"x": 1})[0][0][1] == str(tmp_path)
    assert script.run({"x": 2}, cwd=other)[0][0][1] == str(other)


def test_another_interpreter_is_that_of_the_next_run(script, tmp_path):
    other = other_interpreter(tmp_path / "venv")
    assert script.run({"x": 1})[0][0][2] == sys.executable
    assert script.run({"x": 2}, python=other)[0][0][2] == other


def test_the_worker_goes_on_from_one_terminal_to_the_next(script):
    noise = {"TERM": "dumb", "COLUMNS": "7", "SHLVL": "9", "WINDOWID": "3", "SSH_CONNECTION": "1", "_": "x"}
    (before,) = script.run({"x": 1})
    (after,) = script.run({"x": 2}, **noise)
    assert after[1] == before[1]


@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
def test_a_retry_waits_for_the_mended_environment(script, tmp_path, method):
    log = tmp_path / "runs.txt"
    config = {"x": 1, "log": str(log), "bad": "old"}
    (failed,) = script.run(config, method=method, MARK="old")
    assert log.read_text().split() == ["old"]
    reply = cli("retry", script.campaign, home=script.home)
    assert reply.stdout.splitlines()[0] == f"1 job of {script.campaign} retried"
    assert "nobody serves it" in reply.stdout
    (mended,) = script.run(config, method=method, MARK="new")
    assert mended[0][0] == "new"
    assert mended[1] != failed[1]
    assert log.read_text().split() == ["old", "new"]


def test_a_retry_tells_of_a_worker_that_does_not_answer(script, own_fleet, monkeypatch):
    (failed,) = script.run({"x": 1, "bad": "old"}, MARK="old")
    (pid,) = [one.card.pid for one in _live(own_fleet, script)]
    monkeypatch.setattr("queue_eval.driver.local_register.IDLE_HEARD_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        reply = cli_here("retry", script.campaign, home=script.home)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert reply.stdout.splitlines()[0] == f"1 job of {script.campaign} retried"
    what = "does not answer; it may run these jobs in the environment that it was started in"
    assert reply.stderr == f"worker {failed[1]} {what}\n"


def test_a_retry_leaves_workers_that_have_something_to_do(script, own_fleet, tmp_path):
    gate = tmp_path / "gate"
    script.start({"x": 1, "bad": ""}, {"x": 2, "gate": str(gate)}, wait="leave").wait(60)
    queue = own_fleet.queue(script.campaign)
    wait_until(lambda: (one := queue.snapshot().counts)[State.FAILED] == one[State.RUNNING] == 1)
    reply = cli("retry", script.campaign, home=script.home)
    assert reply.stdout.splitlines() == [f"1 job of {script.campaign} retried"]
    gate.touch()
    wait_until(lambda: queue.snapshot().outstanding == 0)


@pytest.mark.long
def test_what_an_ended_driver_has_left_running_is_finished(script, own_fleet, tmp_path):
    """Its worker is asked to drain: it finishes what runs, and nothing more."""
    gate = tmp_path / "gate"
    first, second = ({"x": x, "gate": str(gate)} for x in (1, 2))
    script.start(first, second, wait="leave", MARK="old").wait(60)
    queue = own_fleet.queue(script.campaign)
    wait_state(queue, State.RUNNING, 1)
    (old,) = queue.snapshot().workers
    after = script.start(first, second, MARK="new")
    wait_state(queue, State.RUNNING, 2)
    gate.touch()
    output, errors = after.communicate(timeout=60)
    assert errors == ""
    results = json.loads(output.splitlines()[-1])
    assert [(told[0], worker == old.worker, attempts) for told, worker, attempts in results] == [
        ("old", True, 1), ("new", False, 1)
    ]  # fmt: skip


@pytest.mark.long
def test_the_worker_of_a_living_driver_stays(script, own_fleet):
    living = script.start({"x": 1}, wait="stay", MARK="old")
    assert living.stdout.readline() == "submitted\n"
    ((_, worker, _),) = json.loads(living.stdout.readline())
    other = script.start({"x": 2}, MARK="new")
    output, errors = other.communicate(timeout=60)
    assert other.returncode == 0
    assert "another driver of campaign" in errors
    assert str(script.path) in errors, "it points at the script"
    assert json.loads(output.splitlines()[-1])
    states = {one.card.name: one.card.state for one in _live(own_fleet, script)}
    assert states[worker] == "running"
    living.kill()
    living.wait()
    (after,) = script.run({"x": 3}, MARK="new")
    assert after[0][0] == "new"
    assert after[1] != worker


def test_the_worker_of_a_killed_driver_goes(script, own_fleet):
    killed = script.start({"x": 1}, wait="stay", MARK="old")
    killed.stdout.readline()
    ((_, worker, _),) = json.loads(killed.stdout.readline())
    queue = own_fleet.queue(script.campaign)
    assert len(queue.drivers()) == 1
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (after,) = script.run({"x": 2}, MARK="new")
    assert (after[0][0], after[1] != worker) == ("new", True)
    assert queue.drivers() == {}, "the dead one was struck off, and the other has closed"


@pytest.mark.long
def test_a_worker_that_does_not_answer_is_told_of(script, own_fleet):
    """It is frozen: it cannot say that it leases no more."""
    script.run({"x": 1}, MARK="old")
    ((old, pid),) = [(one.card.name, one.card.pid) for one in _live(own_fleet, script)]
    os.kill(pid, signal.SIGSTOP)
    try:
        output, errors = script.start({"x": 2}, MARK="new").communicate(timeout=60)
        ((told, worker, attempts),) = json.loads(output.splitlines()[-1])
        assert (told[0], worker != old, attempts) == ("new", True, 1)
        assert f"worker {old} has another environment, folder or interpreter and does not answer" in errors
        assert f"end its process {pid}" in errors
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: old not in [one.card.name for one in _live(own_fleet, script)])


@pytest.mark.long
def test_a_local_worker_of_the_build_before_goes(script, own_fleet):
    """It tells no digest. That a driver has started it is seen by where it logs."""
    start_server(script.home, keep=True)
    script.run({"x": 0}, MARK="new")
    own_fleet.cli("workers", "stop", *(one.card.name for one in _live(own_fleet, script)))
    wait_until(lambda: not _live(own_fleet, script))
    old = own_fleet.worker(
        "--name", "before", "--campaign", script.campaign, "--idle-timeout", "60", MARK="old"
    )
    (script.home / "logs" / "worker-before.log").touch()
    wait_registered(own_fleet, "before")
    (after,) = script.run({"x": 1}, MARK="new")
    assert (after[0][0], after[1] != "before") == ("new", True)
    assert old.wait(30) == 0
    assert "asked to drain" in own_fleet.output_of(old)


@pytest.mark.long
def test_a_worker_that_was_started_by_hand_counts(script, own_fleet):
    start_server(script.home, keep=True)
    script.run({"x": 0}, MARK="new")
    own_fleet.cli("workers", "stop", *(one.card.name for one in _live(own_fleet, script)))
    wait_until(lambda: not _live(own_fleet, script))
    own_fleet.worker("--name", "by-hand", "--campaign", script.campaign, MARK="mine")
    wait_registered(own_fleet, "by-hand")
    (after,) = script.run({"x": 1}, MARK="new")
    assert after == [["mine", str(own_fleet.folder), sys.executable], "by-hand", 1]


def test_no_variable_is_written_anywhere(script, own_fleet):
    secret = "correct-horse-battery-staple"
    script.run({"x": 1}, MARK="old", PASSWORD_OF_MINE=secret)
    queue = own_fleet.queue(script.campaign)
    (worker,) = live_workers(queue.link)
    assert len(worker.card.launch) == 64
    told = [*queue.link.client.get(keys.worker_key(worker.card.name)).decode().split()]
    told += psutil.Process(worker.card.pid).cmdline()
    told += [path.read_bytes().decode(errors="replace") for path in script.home.rglob("*") if path.is_file()]
    assert not [text for text in told if secret in text or "PASSWORD_OF_MINE" in text]


def _live(fleet: Fleet, script: Script) -> list[LiveWorker]:
    return live_workers(fleet.queue(script.campaign).link)


# In one process ------------------------------------------------------------------------------------------


@pytest.fixture
def create(own_home: Path, campaign: str) -> Iterator[Callable[[], Evaluator]]:
    made: list[Evaluator] = []

    def create() -> Evaluator:
        keywords = {"home": own_home, "campaign": campaign, "num_workers": 1}
        made.append(Evaluator.create("tests.support.launch_functions:tell", "process", keywords))
        return made[-1]

    yield create
    for evaluator in made:
        evaluator.close()


def marks(evaluator: Evaluator, x: int) -> list[str]:
    jobs = evaluator.submit([{"x": x}])
    evaluator.gather("ALL", timeout=60)
    return [job.result[0] for job in jobs]


def test_a_notebook_that_begins_again_has_its_new_environment(create, monkeypatch):
    """Nobody closes the evaluator of before; where both are used, both go by what the process has now."""
    monkeypatch.setenv("MARK", "old")
    before = create()
    assert marks(before, 1) == ["old"]
    monkeypatch.setenv("MARK", "new")
    after = create()
    assert marks(after, 2) == ["new"]
    before._workers._look_at = 0.0
    assert marks(before, 3) == ["new"]
    assert marks(after, 4) == ["new"]
    assert len(before._workers._started) <= 1


def test_an_evaluator_keeps_the_environment_of_its_first_look(create, monkeypatch):
    """A variable that a library sets in between, and a folder that the program leaves, move no worker."""
    monkeypatch.setenv("MARK", "before the first look")
    evaluator = create()
    monkeypatch.setenv("MARK", "at the first look")
    assert marks(evaluator, 1) == ["at the first look"]
    workers: LocalWorkers = evaluator._workers
    (first,) = workers._started
    monkeypatch.setenv("MARK", "later")
    monkeypatch.chdir("/")
    workers._look_at = 0.0
    assert marks(evaluator, 2) == ["at the first look"]
    os.kill(first.process.pid, signal.SIGKILL)
    wait_until(lambda: not first.is_alive)
    (job,) = evaluator.submit([{"x": 3}])
    evaluator.gather("ALL", timeout=60)
    assert job.result[0] == "at the first look"
    assert job.result[1] != "/"


def test_a_folder_that_is_gone_is_told_of(create, monkeypatch, tmp_path):
    """Another one would not do: the function may be found there, or not."""
    folder = tmp_path / "search"
    folder.mkdir()
    monkeypatch.chdir(folder)
    evaluator = create()
    assert marks(evaluator, 1) == [""]
    monkeypatch.chdir("/")
    folder.rmdir()
    (started,) = evaluator._workers._started
    os.kill(started.process.pid, signal.SIGKILL)
    wait_until(lambda: not started.is_alive)
    evaluator.submit([{"x": 2}])
    with pytest.raises(WorkerError, match=f"no worker can be started on this machine: .*{folder}"):
        evaluator.gather("ALL", timeout=10)


def test_what_a_call_under_way_has_leased_is_given_back(fleet, campaign, monkeypatch):
    """A worker that was asked to drain meanwhile does not run it: it may be for workers of another driver."""
    options = WorkerOptions(1, name="draining", home=fleet.home, campaigns=(campaign,))
    access = find_access(None, fleet.home)
    assert access is not None
    worker = Worker(access, options)
    settle = CampaignCommands.settle

    def drain_before_the_reply(queue: CampaignCommands, *arguments: Any, **keywords: Any) -> Settled:
        reply = settle(queue, *arguments, **keywords)
        if reply.leases:
            worker._state.drain()
        return reply

    monkeypatch.setattr(CampaignCommands, "settle", drain_before_the_reply)
    with fleet.driver(campaign) as driver:
        (job,) = driver.submit([fleet.config(1)])
        queue = fleet.queue(campaign)
        worker._start()
        try:
            wait_until(lambda: not worker._settler_thread.is_alive())
            assert not queue.snapshot().counts[State.RUNNING]
        finally:
            worker._end()
        monkeypatch.undo()
        assert not fleet.begun()
        fleet.worker("--campaign", campaign)
        driver.gather("ALL", timeout=60)
        assert (job.attempts, job.releases, len(fleet.begun())) == (1, 0, 1)
