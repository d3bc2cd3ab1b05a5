"""The benchmark program measures, tells what it cannot measure, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.extent import Extent
from benchmarks.pairs import ratio_of_pair
from benchmarks.peers import PEERS, Peer
from benchmarks.scenarios import driver, inside, peers
from tests.support.processes import Started
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TINY = Extent(rounds=1, jobs=50, trips=2, size=100, seconds=0.1, starts=1, idle_s=0.1, imports=1)


def silent(_what: str) -> None:
    pass


def descendants(of: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(of.pid).children(recursive=True)


def family(benchmark: subprocess.Popen[str], of: str) -> list[psutil.Process]:
    """All that the benchmark has started, once `of` is among it with its two children."""
    with suppress(psutil.NoSuchProcess):
        found = descendants(benchmark)
        if len(found) >= 3 and any(of in one.cmdline() for one in found):
            return found
    return []


def test_a_tiny_run_of_a_scenario():
    found = driver.measure(TINY, silent)
    rows = {row.key: row.value for row in found.rows}
    assert 0 < rows["process submit"] < rows["process driver"]
    assert all(len(values) == TINY.rounds for values in found.rounds.values())


@pytest.mark.long
def test_a_tiny_run_of_what_jobs_say_and_hear(monkeypatch):
    monkeypatch.setattr(inside, "SLOTS", 2)
    monkeypatch.setattr(inside, "STOPPED_ALONE", 2)
    found = inside.measure(TINY, silent)
    assert len(found.rounds["stop one"]) == len(found.rounds["stop all"]) == 2
    assert all(row.value > 0 for row in found.rows if row.key != "lost")


@pytest.mark.long
def test_a_build_beside_itself():
    assert ratio_of_pair("thread", ROOT, jobs=50, rounds=2) > 0


def test_a_peer_that_is_missing_or_fails_is_said_and_the_others_are_measured(monkeypatch):
    monkeypatch.setitem(PEERS, "rq", Peer("Missing", "rq", "no_such_package"))
    monkeypatch.setitem(PEERS, "ray", Peer("Failing", "no_such_module", ""))
    found = peers.measure(TINY, silent, ["rq", "ray", "pool"], [])
    assert len(found.missing) == 2
    assert found.missing[0].startswith("Missing: skipped: no package no_such_package here")
    assert "no_such_module" in found.missing[1]
    assert {"ours", "pool", "to pool"} == {row.key for row in found.rows}
    assert len(found.rounds["pool"]) == 1
    assert found.rounds["settings"] == {"pool": "two processes, submit"}


@pytest.mark.long
@pytest.mark.parametrize("during", ["worker", "benchmarks.peers.pool"])
def test_what_is_interrupted_leaves_nothing(tmp_path_factory, during):
    folder = tmp_path_factory.mktemp("b")
    command = [sys.executable, "-m", "benchmarks", "--only", "peers", "--peer", "pool"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "XDG_STATE_HOME": str(folder)}
    running = Started(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    with running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("peers: pool"):
                break
        started = wait_until(lambda: family(running, during), timeout_s=60)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert running.stderr.read().splitlines()[-1] == "benchmarks: interrupted"
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert not list(folder.glob("qe-*"))
