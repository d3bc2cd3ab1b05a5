"""`queue-eval run` from end to end: real server, real workers, and users who interrupt it."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import Keys
from queue_eval.model.codec import FAIL_RETURN_VALUE
from queue_eval.model.shape import Shape
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.cli import cli, cli_here, complaint, document, start_cli
from tests.support.processes import ignored
from tests.support.waiting import wait_until

SEARCH = """
import queue, time
from pathlib import Path
from helper import double

HERE = Path(__file__).parent

def run(config):
    assert hasattr(queue, "SimpleQueue"), "a module of the command line hides the standard library's"
    with (HERE / "runs.txt").open("a") as file:
        file.write(f"{config['x']}\\n")
    print("evaluating", config["x"])
    while config.get("wait") and not (HERE / "go").exists():
        time.sleep(0.01)
    if config["x"] < 0:
        raise ValueError(f"negative {config['x']}")
    return double(config["x"])
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A script beside a module of its own, and some configs."""
    (tmp_path / "search.py").write_text(SEARCH)
    (tmp_path / "helper.py").write_text("def double(x): return 2 * x\n")
    write_configs(tmp_path, [1, 2, -3, 4])
    return tmp_path


def write_configs(project: Path, values: list[int], **more: object) -> None:
    (project / "c.jsonl").write_text("".join(json.dumps({"x": x} | more) + "\n" for x in values))


def runs(project: Path) -> Counter[int]:
    """How often each config was evaluated."""
    return Counter(map(int, (project / "runs.txt").read_text().split()))


def objectives(path: Path) -> dict[int, float]:
    with path.open(newline="") as file:
        return {int(row["x"]): float(row["objective"]) for row in csv.DictReader(file)}


def test_file_from_elsewhere_and_again(project, own_home):
    words = (
        "run",
        project / "search.py:run",
        "--configs",
        project / "c.jsonl",
        "-n",
        2,
        "--method",
        "thread",
    )
    expected = {1: 2, 2: 4, -3: FAIL_RETURN_VALUE, 4: 8}
    done = cli(*words, "--out", project / "mine.csv", home=own_home)
    assert done.returncode == 1
    assert "3 succeeded, 1 failed" in done.stdout
    *_, last = done.stderr.splitlines()
    assert last.startswith("queue-eval: 1 of 4 jobs failed; see why with: queue-eval job run-c-")
    assert objectives(project / "mine.csv") == expected
    assert not list(project.glob(".mine.csv*"))
    campaign, failed = last.split()[-2:]
    why = cli("job", campaign, failed, home=own_home)
    assert "ValueError: negative -3" in why.stdout
    assert "evaluating -3" in why.stdout
    # The same command again.
    summary = document(cli(*words, "--out", project / "again.csv", "--json", home=own_home), 1)
    assert summary["campaign"] == campaign
    assert summary["counts"] == {"succeeded": 3, "failed": 1, "cancelled": 0}
    assert objectives(project / "again.csv") == expected
    assert set(runs(project).values()) == {1}
    # More configs: only they are evaluated.
    write_configs(project, [1, 2, 4, 5])
    assert document(cli(*words, "--out", project / "more.csv", "--json", home=own_home))["jobs"] == 4
    assert objectives(project / "more.csv") == {1: 2, 2: 4, 4: 8, 5: 10}
    assert set(runs(project).values()) == {1}


def test_results_for_spreadsheets(project, own_home):
    write_configs(project, [-3], **{"=name": "@x"})
    words = ("run", "search:run", "--configs", "c.jsonl", "--method", "thread", "--safe-cells")
    assert cli(*words, home=own_home, cwd=project).returncode == 1
    with (project / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["x"], row["'=name"], row["objective"]) == ("-3", "'@x", str(FAIL_RETURN_VALUE))


def test_module_of_the_working_directory(project, own_home):
    (project / "c.csv").write_text("x,name\n1,a\n2,b\n")
    words = ("run", "search:run", "--configs", "c.csv", "--campaign", "named", "--time-limit", "1m")
    assert cli(*words, "--max-attempts", 2, home=own_home, cwd=project).returncode == 0
    assert objectives(project / "results.csv") == {1: 2, 2: 4}
    status = document(cli("status", "named", "--json", home=own_home))
    assert (status["function"], status["method"]) == ("search:run", "subprocess")
    assert status["counts"]["succeeded"] == 2
    # Another function in the same campaign.
    (project / "other.py").write_text("def run(config): ...\n")
    done = cli("run", "other:run", "--configs", "c.csv", "--campaign", "named", home=own_home, cwd=project)
    assert done.returncode == 1
    assert "search:run" in done.stderr.splitlines()[-1]


def test_interrupted_and_resumed(project, own_home):
    write_configs(project, [1, 2])
    words = ("run", "search:run", "--configs", "c.jsonl", "--method", "thread", "-n", "2", "--campaign", "c")
    with (project / "c.jsonl").open("a") as file:
        file.write('{"x": 3, "wait": true}\n')
    named = ("--home", own_home)  # what the next command needs, too
    process = start_cli(*words, *named, home=project, cwd=project)
    with process:
        # The results of what is finished are written while the rest still runs.
        wait_until(
            lambda: (project / "results.csv").exists() and len(objectives(project / "results.csv")) == 2
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    *_, last = errors.splitlines()
    assert last.startswith("queue-eval: interrupted")
    assert last.endswith(f"end it all with: queue-eval cancel c --home {own_home}")
    assert "Traceback" not in errors
    (project / "go").touch()
    assert cli(*words, home=own_home, cwd=project).returncode == 0
    assert objectives(project / "results.csv") == {1: 2, 2: 4, 3: 6}
    assert runs(project) == {1: 1, 2: 1, 3: 1}


def test_run_in_the_background_of_a_script_ignores_ctrl_c_and_ends_at_sigterm(project, own_home):
    """The `&` of a script has SIGINT ignored."""
    write_configs(project, [1], wait=True)
    words = ("run", "search:run", "--configs", "c.jsonl", "--method", "thread", "--campaign", "c")
    named = ("--home", own_home)
    with ignored(signal.SIGINT):
        first = start_cli(*words, *named, home=project, cwd=project)
    with first:
        wait_until(lambda: (project / "runs.txt").exists())
        first.send_signal(signal.SIGINT)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == -signal.SIGTERM
    with ignored(signal.SIGINT):
        second = start_cli(*words, *named, home=project, cwd=project)
    with second:
        second.send_signal(signal.SIGINT)
        (project / "go").touch()
        _, errors = second.communicate(timeout=30)
    assert second.returncode == 0, errors
    assert objectives(project / "results.csv") == {1: 2}
    assert runs(project) == {1: 1}


def test_cancelled_from_outside(project, own_home):
    write_configs(project, [1], wait=True)
    words = ("run", "search:run", "--configs", "c.jsonl", "--method", "process", "--campaign", "c")
    process = start_cli(*words, home=own_home, cwd=project)
    with process:
        wait_until(lambda: (project / "runs.txt").exists())
        assert cli("cancel", "c", home=own_home).returncode == 0
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "1 cancelled" in output
    assert "queue-eval retry c" in errors.splitlines()[-1]


def test_keywords_of_the_evaluator(project, server, campaign):
    """Each arrives where the keyword of the same name does; a priority is one of the submission."""
    words = (
        "run", "search:run", "--configs", "c.jsonl", "--campaign", campaign, "--no-local-workers",
        "--max-losses", 5, "--retry-delay", "2s,3,1m", "--priority", 7, "--time-request", "90s",
        "--on-change", "accept", "--checkpoints", "saved", "--keep-checkpoints", "--keep-folders",
    )  # fmt: skip
    process = start_cli(*words, home=server, cwd=project)
    link = Link(find_access(None, server), name="test")
    pending = Keys(campaign).pending_of(Shape(1, 90))
    with process:
        wait_until(lambda: link.client.zcard(pending) == 4 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    queue, meta = CampaignCommands.attach(link, campaign)
    delays = [float(meta[name]) for name in ("retry_first_ms", "retry_factor", "retry_max_ms")]
    assert (int(meta["max_losses"]), delays) == (5, [2000, 3, 60_000])
    options = json.loads(meta["options"])
    assert options["time_request"] == 90
    assert (options["keep_checkpoints"], options["keep_folders"]) == (True, True)
    assert options["checkpoints"] == str(project / "saved")
    # Jobs of the default priority come behind those.
    words = ("run", "search:run", "--configs", "more.jsonl", "--campaign", campaign, "--no-local-workers")
    (project / "more.jsonl").write_text('{"x": 9}')
    process = start_cli(*words, "--time-request", "90s", home=server, cwd=project)
    with process:
        wait_until(lambda: link.client.zcard(pending) == 5 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert link.client.zrange(pending, 0, -1)[-1] == b"5"
    scores = [score for _, score in link.client.zrange(pending, 0, -1, withscores=True)]
    assert scores[4] - scores[3] > 1000 * (scores[3] - scores[2])
    queue.purge()
    link.close()


def test_memory_limit_of_the_workers_that_it_starts(project, own_home):
    """They take it from their environment, where what they run sees it, too."""
    (project / "search.py").write_text(
        "import os\ndef run(config): return os.environ['QUEUE_EVAL_MEMORY_LIMIT']\n"
    )
    write_configs(project, [1])
    words = ("run", "search:run", "--configs", "c.jsonl", "--method", "thread", "--campaign", "c")
    assert cli(*words, "--memory-limit", "1.5GiB", home=own_home, cwd=project).returncode == 0
    (job,) = document(cli_here("jobs", "c", "--json", home=own_home))
    assert job["result"] == "1.5GiB"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search:rnu", "--configs", "c.jsonl"], "did you mean 'run'"),
        (["nothing:run", "--configs", "c.jsonl"], "no module 'nothing'"),
        (["nothing.py:run", "--configs", "c.jsonl"], "no file 'nothing.py'"),
        (["search:run", "--configs", "none.jsonl"], "No such file"),
        (["search:run", "--configs", "bad.jsonl"], "bad.jsonl, line 2"),
        (["search:run", "--configs", "c.jsonl", "--out", "no/r.csv"], "no folder"),
        (["search:run", "--configs", "c.jsonl", "--method", "x"], "'x' is not one of"),
        (["search:run", "--configs", "c.jsonl", "--campaign", "a b"], "'a b' is not valid"),
        (["search:run", "--configs", "c.jsonl", "--time-limit", "soon"], "'soon' is not a duration"),
        (["search:run", "--configs", "c.jsonl", "--retry-delay", "1,2"], "nor FIRST,FACTOR,MAXIMUM"),
        (["search:run", "--configs", "c.jsonl", "--retry-delay", "1s,x,2s"], "nor FIRST,FACTOR,MAXIMUM"),
        (["search:run", "--configs", "c.jsonl", "--retry-delay", "1s,0,2s"], "give a number above 0"),
        (["search:run", "--configs", "c.jsonl", "--retry-delay", "soon"], "'soon' is not a duration"),
        (["search:run", "--configs", "c.jsonl", "--max-losses", "0"], "0 is not in the range"),
        (["search:run", "--configs", "c.jsonl", "--priority", "40000"], "give a whole number up to 32767"),
        (["search:run", "--configs", "c.jsonl", "--memory-limit", "9MB"], "give at least 64MB"),
        (["search:run", "--configs", "c.jsonl", "--checkpoint-space", "much"], "give bytes, or a size"),
        (["search:run", "--configs", "c.jsonl", "--memory-limit", "1GB", "--no-local-workers"],
            "give it to queue-eval worker"),
        (["search:run"], "--configs"),
    ],
)
def test_wrong_usage_changes_nothing(project, own_home, monkeypatch, words, said):
    (project / "bad.jsonl").write_text('{"x": 1}\n{"x": \n')
    monkeypatch.chdir(project)
    assert said in complaint(cli_here("run", *words, home=own_home), 2)
    assert not own_home.exists()
    assert not (project / "results.csv").exists()


def test_server_that_is_away(project):
    done = cli("run", "search:run", "--configs", "c.jsonl", "--url", "redis://127.0.0.1:1", cwd=project)
    assert done.returncode == 2
    assert "no server answers" in done.stderr.splitlines()[-1]
