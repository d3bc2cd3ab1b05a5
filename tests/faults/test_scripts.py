"""Users' scripts that are killed at any moment and run again, started twice, and named as they like."""

from __future__ import annotations

import csv
import json
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from queue_eval.server.lifecycle import server_state, start_server
from tests.support.fault_fleet import Fleet
from tests.support.marks import long
from tests.support.waiting import wait_until

SEARCH = """
    import json, os, sys
    from queue_eval import Evaluator

    def note(word):
        with open("progress.txt", "a") as file:
            file.write(word + "\\n")

    def run(config):
        import os, time
        side = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(side, f"start {config['id']} {os.getpid()} 0\\n".encode())
        time.sleep(0.04)
        os.write(side, f"end {config['id']} {os.getpid()} 0\\n".encode())
        os.close(side)
        return config["x"] ** 2

    if __name__ == "__main__":
        home, log = sys.argv[1:]
        options = {"campaign": "search", "num_workers": 2, "home": home, "local_workers": False}
        with Evaluator.create(run, "process", options) as evaluator:
            configs = [{"x": x, "log": log} for x in range(40)]
            for start in range(0, 40, 10):
                note("submit")
                evaluator.submit(configs[start : start + 10])
            while evaluator.num_outstanding:
                note("gather")
                evaluator.gather("BATCH", size=5)
                note("dump")
                evaluator.dump_evals(saved_keys=["x"])
            evaluator.dump_evals(saved_keys=["x"])
            print(json.dumps(sorted((job.id, job.result) for job in evaluator.jobs_done)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("moment", ["gather", *long("submit", "dump")])
def test_a_killed_script_is_run_again(fleet, folder, moment):
    script = folder / "search.py"
    script.write_text(textwrap.dedent(SEARCH))
    progress = folder / "progress.txt"
    arguments = (str(fleet.home), str(fleet.log))
    fleet.worker(slots=2)

    def has_come(rounds: int) -> bool:
        return progress.exists() and progress.read_text().split().count(moment) >= rounds

    # At first not in the first round, so that there is something to lose.
    for rounds in (2, 1):
        progress.unlink(missing_ok=True)
        process = fleet.script(script, *arguments)
        wait_until(lambda rounds=rounds: has_come(rounds))
        process.kill()
        process.wait()
    process = fleet.script(script, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert json.loads(output.splitlines()[-1]) == [[x + 1, x**2] for x in range(40)]
    assert fleet.begun() == dict.fromkeys(range(1, 41), 1)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["x"]) for row in rows) == list(range(40))
    assert {int(row["x"]) ** 2 for row in rows} == {float(row["objective"]) for row in rows}
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".results")]


ONCE = """
    import sys
    from queue_eval import Evaluator

    options = {"home": sys.argv[1], "num_workers": 1}
    with Evaluator.create("tests.support.functions:run", "thread", options) as evaluator:
        evaluator.submit([{"x": 7}])
        print(evaluator.gather("ALL")[0].result)
"""


def servers_of(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["name", "environ", "cmdline", "cwd"]):
        name = process.info["name"] or ""
        if ("valkey" in name or "redis" in name) and str(home) in json.dumps(process.info, default=str):
            found.append(process.pid)
    return found


def test_two_scripts_at_once_start_one_server(own_home, folder):
    fleet = Fleet(own_home, folder)
    try:
        script = folder / "once.py"
        script.write_text(textwrap.dedent(ONCE))
        scripts = [fleet.script(script, str(own_home)) for _ in range(3)]
        outputs = [process.communicate(timeout=60)[0] for process in scripts]
        assert [output.splitlines()[-1] for output in outputs] == ["7"] * 3
        assert servers_of(own_home) == [server_state(own_home).pid]
    finally:
        fleet.close()


PROJECT = {
    "workers/__init__.py": "NAME = 'the user'\n",
    "workers/worker.py": "def run(config):\n    return work(config)\n\nfrom workers.helper import work\n",
    "workers/helper.py": (
        "import job, states, codec, workers\n\n"
        "def work(config):\n"
        "    return [workers.NAME, job.NAME, states.NAME, codec.NAME, config['x']]\n"
    ),
    "job.py": "NAME = 'my job'\n",
    "states.py": "NAME = 'my states'\n",
    "codec.py": "NAME = 'my codec'\n",
    "scripts/search.py": (
        "import json, os, sys\n"
        "sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n"
        "import job, states, codec\n"
        "from workers.worker import run\n"
        "from queue_eval import Evaluator\n\n"
        "home, method = sys.argv[1:]\n"
        "options = {'home': home, 'num_workers': 2}\n"
        "with Evaluator.create(run, method, options) as evaluator:\n"
        "    evaluator.submit([{'x': 1}, {'x': 2}])\n"
        "    jobs = evaluator.gather('ALL')\n"
        "    print(json.dumps([job.result if job.error is None else job.error for job in jobs]))\n"
    ),
}


@pytest.fixture
def bare_fleet(own_home: Path, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(own_home, tmp_path)
    yield fleet
    fleet.close()


@pytest.mark.parametrize(
    ("method", "is_on_path"),
    [
        ("process", False), ("process", True),
        *(pytest.param(one, False, marks=pytest.mark.long) for one in ("thread", "subprocess")),
    ],
)
def test_a_project_with_names_like_ours(bare_fleet, folder, method, is_on_path, monkeypatch):
    """Driver, workers that it starts, and children: the user's packages and ours keep apart."""
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if is_on_path:
        own = os.environ.get("PYTHONPATH", "")
        monkeypatch.setattr("tests.support.fault_fleet.ROOT", f"{folder}{os.pathsep}{_root()}{own}")
    process = bare_fleet.script(folder / "scripts" / "search.py", str(bare_fleet.home), method)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    names = ["the user", "my job", "my states", "my codec"]
    assert sorted(json.loads(output.splitlines()[-1])) == [[*names, 1], [*names, 2]]


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def test_a_killed_script_leaves_its_workers_to_finish(bare_fleet, folder):
    """They outlive the driver: what it submitted is done when it is run again."""
    start_server(bare_fleet.home, keep=True)
    script = folder / "search.py"
    script.write_text(textwrap.dedent(SEARCH).replace(', "local_workers": False', ""))
    arguments = (str(bare_fleet.home), str(bare_fleet.log))
    first = bare_fleet.script(script, *arguments)
    wait_until(lambda: bare_fleet.finished())
    first.send_signal(signal.SIGKILL)
    first.wait()
    submitted = len(bare_fleet.queue("search").configs_of(range(1, 41)))
    assert submitted
    wait_until(lambda: bare_fleet.queue("search").snapshot().outstanding == 0)
    second = bare_fleet.script(script, *arguments)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert bare_fleet.begun() == dict.fromkeys(range(1, 41), 1)
