"""Drivers that are interrupted or killed, and workers and servers that die under them: nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import redis

from queue_eval import Evaluator, WorkerError
from queue_eval.server.lifecycle import server_state
from tests.support.fake_worker import FakeWorker
from tests.support.processes import Started
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
    import json, pathlib, sys, time
    from queue_eval import Evaluator

    def run(config):
        with open("runs.txt", "a") as file:
            file.write(f"{config['x']}\\n")
        gate = pathlib.Path("gate")
        while config["x"] >= 3 and not gate.exists():
            time.sleep(0.01)
        return config["x"] ** 2

    if __name__ == "__main__":
        options = {"campaign": "search", "num_workers": 2, "home": sys.argv[1]}
        with Evaluator.create(run, "thread", options) as evaluator:
            evaluator.submit([{"x": x} for x in range(6)])
            for job in evaluator.as_completed():
                evaluator.dump_evals()
                print(job.id, flush=True)
        print(json.dumps(sorted((job.id, job.result) for job in evaluator.jobs_done)))
"""


def start(folder, home):
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "script.py", str(home)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return Started(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_script_that_was_killed_is_simply_run_again(tmp_path, own_home):
    with start(tmp_path, own_home) as first:
        wait_until(lambda: (tmp_path / "results.csv").exists())
        first.kill()
    with start(tmp_path, own_home) as second:
        (tmp_path / "gate").touch()
        output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert json.loads(output.splitlines()[-1]) == [[x + 1, x**2] for x in range(6)]
    assert sorted((tmp_path / "runs.txt").read_text().split()) == list("012345")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 7
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".results")]


# An interruption while redis-py connects leaves it a socket to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_gather_loses_nothing(server, campaign, fake_worker):
    main = threading.main_thread().ident
    is_armed = False

    def interrupt(*_):
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise KeyboardInterrupt

    stop = threading.Event()

    def send_signals():
        while not stop.wait(0.01):
            signal.pthread_kill(main, signal.SIGINT)

    former = signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=send_signals)
    keywords = {"home": server, "campaign": campaign, "local_workers": False}
    interruptions = 0
    try:
        with Evaluator.create("module:run", "thread", keywords) as evaluator:
            evaluator.submit([{"x": x} for x in range(4000)])
            fake_worker(campaign, room=20)
            thread.start()
            while evaluator.num_outstanding:
                try:
                    is_armed = True
                    evaluator.gather("ALL")
                    is_armed = False
                except KeyboardInterrupt:
                    interruptions += 1
            assert sorted(job.id for job in evaluator.jobs_done) == list(range(1, 4001))
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGINT, former)
    # One that arrives while something is collected is swallowed by Python, and leaves the rest uninterrupted.
    assert interruptions > 0


WAITING = """
    import sys
    from queue_eval import Evaluator

    def search(evaluator):
        print("waiting", flush=True)
        if sys.argv[2] == "gather":
            evaluator.gather("ALL")
        elif sys.argv[2] == "as_completed":
            for job in evaluator.as_completed():
                pass
        else:
            import asyncio
            asyncio.run(evaluator.execute(evaluator.create_job({"x": 2})))

    if __name__ == "__main__":
        options = {"home": sys.argv[1], "local_workers": False}
        if sys.argv[3:]:
            options["campaign"] = sys.argv[3]
        with Evaluator.create("module:run", "thread", options) as evaluator:
            print(evaluator.campaign, flush=True)
            evaluator.submit([{"x": 1}])
            search(evaluator)
"""


@pytest.mark.parametrize(
    ("call", "named"), [("gather", True), ("gather", False), ("as_completed", True), ("execute", True)]
)
def test_an_interrupted_driver_says_in_one_sentence_how_to_come_back(tmp_path, fleet, campaign, call, named):
    (tmp_path / "script.py").write_text(textwrap.dedent(WAITING))
    words = ["script.py", str(fleet.home), call, *([campaign] if named else [])]
    with Started(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        name = process.stdout.readline().strip()
        assert process.stdout.readline() == "waiting\n"
        client = fleet.queue(name).link.client
        wait_until(lambda: [one for one in client.client_list() if one["cmd"] == "xread"])
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == -signal.SIGINT, errors
    for folder in ("queue_eval/", "redis/", "socket.py"):
        assert folder not in errors
    assert "in search" in errors, "the user's own frames are there"
    if call == "execute":
        return
    attach = f"Evaluator.attach({name!r}, home={str(fleet.home)!r})"
    come_back = "run the same script again" if named else attach
    (last,) = errors.splitlines()[-1:]
    assert last.startswith("KeyboardInterrupt: interrupted; started workers go on: ")
    assert come_back in last
    assert f"queue-eval cancel {name} --home {fleet.home}" in last
    assert fleet.queue(name).snapshot().outstanding == 1


def test_a_lost_reply_while_hiring_costs_nothing(own_home, monkeypatch):
    """The call is made again at once, and finds its own guard."""
    keywords = {"home": own_home, "num_workers": 1}
    with Evaluator.create("tests.support.functions:run", "thread", keywords) as evaluator:
        link = evaluator._session.queue.link
        call, run = link.call, link.run_script
        running, lost = [], []

        def run_script(script, *arguments):
            running.append(script.name)
            return run(script, *arguments)

        def lossy(operation):
            def once(client):
                reply = operation(client)
                if running[-1:] == ["hire"] and len(lost) < 2:
                    # The first when it takes the guard, the second when it takes it again.
                    lost.append(reply)
                    raise redis.ConnectionError("Connection closed by server.")
                return reply

            return call(once)

        monkeypatch.setattr(link, "run_script", run_script)
        monkeypatch.setattr(link, "call", lossy)
        evaluator.submit([{"x": 7}])
        assert lost == [1, 1]
        assert len(evaluator._workers._started) == 1
        (job,) = evaluator.gather("ALL", timeout=60)
        assert job.result == 7


def test_a_killed_local_worker_is_replaced(tmp_path, own_home, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def wait_for_second_life(config):
        import os
        import pathlib
        import time

        mine = pathlib.Path(config["folder"]) / f"{os.getppid()}.pid"
        mine.touch()
        while not pathlib.Path(config["folder"], "gate").exists():
            time.sleep(0.01)
        return "done"

    keywords = {"home": own_home, "num_workers": 1}
    with Evaluator.create(wait_for_second_life, "process", keywords) as evaluator:
        evaluator.submit([{"folder": str(tmp_path)}])
        wait_until(lambda: list(tmp_path.glob("*.pid")))
        started = evaluator._workers._started[0]
        os.kill(started.process.pid, signal.SIGKILL)
        (tmp_path / "gate").touch()
        (job,) = evaluator.gather("ALL", timeout=60)
        assert (job.result, job.attempts) == ("done", 2)
        assert job.worker != started.name


def test_the_server_is_killed_while_a_driver_waits(own_home):
    keywords = {"home": own_home, "campaign": "c", "local_workers": False}
    with Evaluator.create("module:run", "thread", keywords) as evaluator:
        evaluator.submit([{"x": x} for x in range(5)])
        pid = server_state(own_home).pid
        jobs: list[int] = []
        thread = threading.Thread(target=lambda: jobs.extend(job.id for job in evaluator.gather("ALL")))
        thread.start()
        wait_until(lambda: evaluator._waiter._reader is not None)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server_state(own_home).state == "running" and server_state(own_home).pid != pid)
        worker = FakeWorker(own_home, "c")
        thread.join(30)
        worker.close()
        assert sorted(jobs) == [1, 2, 3, 4, 5]


def test_a_timeout_holds_while_the_server_is_away(own_home):
    keywords = {"home": own_home, "campaign": "c", "local_workers": False}
    with Evaluator.create("module:run", "thread", keywords) as evaluator:
        evaluator.submit([{"x": 1}])
        os.kill(server_state(own_home).pid, signal.SIGKILL)
        assert evaluator.gather("ALL", timeout=0.3) == []


@pytest.mark.long
def test_workers_that_cannot_start_are_told_of(own_home, monkeypatch):
    evaluator = Evaluator.create("module:run", "thread", {"home": own_home, "num_workers": 1})
    with evaluator:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        evaluator.submit([{"x": 1}])
        with pytest.raises(WorkerError, match="die at once"):
            evaluator.gather("ALL", timeout=60)
        assert evaluator.num_outstanding == 1


def test_two_drivers_share_local_workers(own_home):
    keywords = {"home": own_home, "campaign": "c", "num_workers": 2}
    with (
        Evaluator.create("tests.support.functions:run", "thread", keywords) as first,
        Evaluator.create("tests.support.functions:run", "thread", keywords) as second,
    ):
        threads = [threading.Thread(target=one.submit, args=([{"x": 1}],)) for one in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.gather("ALL", timeout=60)
        assert second.gather("ALL", timeout=60)
        assert len([*first._workers._started, *second._workers._started]) == 1
