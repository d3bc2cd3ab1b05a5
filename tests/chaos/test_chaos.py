"""Attacks on real processes: every law holds, and nothing of an attack is left."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from queue_eval.chaos.processes import MARK, signal_tree
from queue_eval.chaos.schedule import TURNS, strikes
from queue_eval.chaos.settings import checked
from queue_eval.chaos.workload import MAX_ATTEMPTS, TIME_LIMIT_S
from queue_eval.errors import ServerError
from queue_eval.server.lifecycle import start_server
from queue_eval.transport.access import Access
from tests.support.cli import COMMAND, ROOT, cli_here
from tests.support.marks import long, soak
from tests.support.processes import Started
from tests.support.waiting import wait_until

EVERYTHING = {
    "kill driver", "kill worker", "kill child", "kill server", "drain worker", "term-all worker",
    "pause worker", "cut network",
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's folder: the paths of Ray's unix sockets are long enough without it.
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def command(folder: Path, *words: object) -> list[str]:
    return [*COMMAND, "chaos", "--json", "--keep", str(folder), *map(str, words)]


def attack(folder: Path, *words: object) -> dict[str, Any]:
    done = subprocess.run(
        command(folder, *words), capture_output=True, text=True, check=False, cwd=ROOT, timeout=115
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    broken = [law for law in report["invariants"] if not law["holds"]]
    assert broken == []
    assert done.returncode == 0, done.stderr
    assert report["holds"]
    assert survivors(folder) == []
    return report


def survivors(folder: Path) -> list[psutil.Process]:
    """Processes of an attack on this folder."""
    return [
        process
        for process in psutil.process_iter(["environ", "cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and MARK in (process.info["environ"] or {})
        and str(folder) in str((process.info["environ"] or {}).get("TMPDIR"))
    ]


def test_the_first_round_of_the_test_below_is_short() -> None:
    chosen = checked(
        evaluations=500, method="process", workers=3, slots=2, seed=55, minutes=0.5,
        fault_every_s=0.9, lease_s=2.0,
        faults={
            "kill": "driver,worker,child,server", "drain": "worker", "term-all": "worker", "pause": "worker",
            "cut": "network",
        },
    )  # fmt: skip
    first_round = itertools.islice(strikes(chosen), len(chosen.faults))
    assert sum(strike.after_s for strike in first_round) < MAX_ATTEMPTS * TIME_LIMIT_S


def test_nothing_lost_nothing_twice(folder: Path) -> None:
    report = attack(
        folder, "--evaluations", 500, "--minutes", 0.5, "--seed", 55, "--fault-every", "900ms",
        "--lease", "2s",
    )  # fmt: skip
    # The first round has all kinds, and is over before the one that hangs has been given up for good.
    assert report["never_done"] == []
    assert {kind for kind, said in report["faults"].items() if said["count"]} == EVERYTHING


@pytest.mark.parametrize("method", [*long("thread"), *soak("subprocess")])
def test_other_methods(folder: Path, method: str) -> None:
    attack(
        folder, "--method", method, "--evaluations", 200, "--minutes", 0.3, "--seed", 4,
        "--fault-every", "1s", "--lease", "2s", "--pause", "worker,driver,server",
    )  # fmt: skip


@pytest.mark.long
def test_a_second_server_is_refused(folder: Path) -> None:
    report = attack(
        folder, "--evaluations", 60, "--minutes", 0.15, "--seed", 3, "--fault-every", "700ms",
        "--lease", "2s", "--kill", "server", "--drain", "none", "--term-all", "none", "--pause", "none",
        "--cut", "none", "--second-server", "server",
    )  # fmt: skip
    assert report["faults"]["second-server server"]["count"] > 0


@pytest.mark.long
def test_a_clock_that_is_set_back(folder: Path) -> None:
    pytest.importorskip("libfaketime", reason="libfaketime is not there")
    report = attack(
        folder, "--evaluations", 300, "--minutes", 0.4, "--seed", 8, "--fault-every", "1s", "--lease", "2s",
        "--kill", "worker,server", "--clock-back", "server",
    )  # fmt: skip
    assert report["faults"]["clock-back server"]["count"] > 0


@pytest.mark.long
@pytest.mark.parametrize("method", ["ray", "rq"])
def test_forwarding_methods(folder: Path, method: str) -> None:
    attack(
        folder, "--method", method, "--evaluations", 60, "--minutes", 0.3, "--seed", 5, "--fault-every", "3s",
        "--workers", 2,
    )  # fmt: skip


def test_an_attack_that_is_killed_leaves_nothing(folder: Path) -> None:
    words = command(folder, "--fault-every", "1m")
    with Started(words, stdout=subprocess.DEVNULL, cwd=ROOT) as chaos:
        wait_until(lambda: (folder / "side.log").exists() or chaos.poll() is not None, 30)
        assert chaos.poll() is None
        assert len(survivors(folder)) > 3
        chaos.kill()
    wait_until(lambda: not survivors(folder))


@pytest.mark.long
def test_what_is_broken_ends_with_status_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign whose driver always dies does not come to its end."""
    broken = folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'queue_eval.chaos.driver' in sys.orig_argv:\n"
        "    sys.exit('no driver today')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken))
    done = subprocess.run(
        command(folder / "logs", "--evaluations", 10, "--minutes", 0.2, "--seed", 6, "--kill", "none"),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["holds"]
    broken_laws = {law["law"] for law in report["invariants"] if not law["holds"]}
    assert {"the campaign comes to its end", "nobody died unasked"} <= broken_laws
    (line,) = done.stderr.splitlines()
    assert "broken with seed 6" in line
    assert report["command"] in line
    assert report["folder"] == str(folder / "logs")


def told(line: str) -> Path:
    """The folder that a complaint names; the command in it repeats the attack."""
    assert "with seed 6; logs in " in line
    assert "repeat with: queue-eval chaos --evaluations 10 " in line
    return Path(line.partition("; logs in ")[2].partition(";")[0])


def test_an_attack_that_fails_itself_says_how_to_see_it_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that leaves a log nobody can read; the logs were not asked for, and are kept."""
    (folder / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        "if 'queue_eval.chaos.driver' in sys.orig_argv:\n"
        "    pathlib.Path(sys.orig_argv[-1], 'driver.log').write_text('nonsense')\n"
        "    os._exit(0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    words = (
        "--evaluations", "10", "--seed", "6", "--kill", "none", "--drain", "none", "--term-all", "none",
        "--workers", "1", "--json",
    )  # fmt: skip
    done = subprocess.run(
        [*COMMAND, "chaos", *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("queue-eval: JSONDecodeError: ")
    kept = told(line)
    assert kept.parent == folder
    assert (kept / "driver.log").read_text() == "nonsense"
    assert survivors(kept) == []


@pytest.mark.long
def test_a_server_that_does_not_start_again_breaks_a_law(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Path] = []

    def start_once(home: Path, *, keep: bool) -> Access:
        starts.append(home)
        if len(starts) > 1:
            raise ServerError("no server today")
        return start_server(home, keep=keep)

    monkeypatch.setattr("queue_eval.chaos.fleet.start_server", start_once)
    done = cli_here(
        *command(
            folder, "--evaluations", 10, "--seed", 6, "--kill", "server", "--drain", "none",
            "--term-all", "none", "--pause", "none", "--cut", "none", "--fault-every", "50ms", "--workers", 1,
        )[len(COMMAND):]
    )  # fmt: skip
    assert told(done.stderr) == folder
    assert done.returncode == 1
    laws = {law["law"]: law for law in json.loads(done.stdout)["invariants"]}
    assert "the server did not start again: no server today" in laws["nobody died unasked"]["details"]
    assert not laws["the campaign comes to its end"]["holds"]
    assert survivors(folder) == []


@pytest.mark.long
def test_a_drain_that_ends_badly_breaks_a_law(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "if 'worker' in sys.orig_argv:\n"
        "    atexit.register(lambda: os._exit(3))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken))
    done = subprocess.run(
        command(
            folder / "logs", "--evaluations", 60, "--seed", 6, "--kill", "none", "--pause", "none",
            "--cut", "none", "--term-all", "none", "--fault-every", "500ms",
        ),
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=100,
    )  # fmt: skip
    report = json.loads(done.stdout)
    laws = {law["law"]: law for law in report["invariants"] if not law["holds"]}
    assert {"nobody died unasked", "nothing left over"} <= set(laws)
    assert "ended when asked to, but with status 3" in laws["nobody died unasked"]["details"][0]
    assert done.returncode == 1


@pytest.mark.parametrize("turn", [TURNS[0], *long(*TURNS[1:])])
def test_a_stop_of_all_reaches_the_worker_and_all_its_descendants(turn: str) -> None:
    tree = "sleep 600 & (sleep 600 & sleep 600; :) & while :; do wait; done"
    with Started(["sh", "-c", tree], start_new_session=True) as top:
        process = psutil.Process(top.pid)

        def descendants() -> list[psutil.Process]:
            return process.children(recursive=True)

        wait_until(lambda: [one.name() for one in descendants()].count("sleep") == 3)
        everyone = descendants()
        signal_tree(top.pid, signal.SIGTERM, turn=turn, gap_s=0.01)
        assert top.wait(10) == -signal.SIGTERM
        assert psutil.wait_procs(everyone, 10)[1] == []


@pytest.mark.parametrize("method", [*long("process"), *soak("thread", "subprocess")])
def test_stops_of_all_processes_alone_cost_nothing(folder: Path, method: str) -> None:
    report = attack(
        folder, "--method", method, "--evaluations", 300, "--minutes", 0.4, "--seed", 9, "--fault-every",
        "500ms", "--kill", "none", "--pause", "none", "--cut", "none",
    )  # fmt: skip
    assert report["never_done"] == []
