"""What an attack is made of follows from its seed, and what cannot be attacked is refused at once."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from queue_eval.chaos.schedule import strikes
from queue_eval.chaos.workload import KINDS, Planned, plan, prepare, read_side_log, run, value_of
from tests.chaos.history import settings
from tests.support.cli import cli_here, complaint


def test_evaluations_follow_from_the_seed(tmp_path: Path) -> None:
    assert plan(300, 7, tmp_path) == plan(300, 7, tmp_path)
    assert plan(300, 7, tmp_path) != plan(300, 8, tmp_path)
    assert {one.kind for one in plan(40, 1, tmp_path)} == set(KINDS)
    assert [one.x for one in plan(300, 7, tmp_path)] == list(range(300))


def test_few_evaluations_are_not_more_than_were_asked_for(tmp_path: Path) -> None:
    assert len(plan(3, 1, tmp_path)) == 3


def execute(one: Planned, tmp_path: Path) -> object:
    prepare(tmp_path)
    return run(one.config | {"id": one.x + 1, "seconds": 0.0})


def test_an_execution_tells_of_itself(tmp_path: Path) -> None:
    one = next(one for one in plan(40, 1, tmp_path) if one.kind == "big")
    result = execute(one, tmp_path)
    assert isinstance(result, dict)
    assert result["value"] == value_of(one.config)
    assert len(result["value"]) == 2**20
    started, ended = read_side_log(tmp_path)
    assert (started.what, ended.what, ended.x, ended.id) == ("start", "end", one.x, one.x + 1)
    assert started.token == ended.token == result["token"]


def test_one_that_a_stop_signal_ends_tells_that_it_leaves(tmp_path: Path) -> None:
    """Ray's handler of SIGTERM raises in the attempt, and its process may live on."""
    prepare(tmp_path)
    config = plan(3, 1, tmp_path)[0].config | {"id": 1}
    with pytest.raises(SystemExit):
        run(config, lambda *_: sys.exit(1))
    assert [line.what for line in read_side_log(tmp_path)] == ["start", "leave"]


def test_a_flaky_one_raises_as_often_as_it_says(tmp_path: Path) -> None:
    one = next(one for one in plan(300, 1, tmp_path) if one.config.get("times") == 2 and one.kind == "flaky")
    for _ in range(2):
        with pytest.raises(ValueError, match="flaky"):
            execute(one, tmp_path)
    execute(one, tmp_path)
    assert Counter(line.what for line in read_side_log(tmp_path)) == {"start": 3, "raise": 2, "end": 1}
    assert one.own_executions == 3


def test_faults_follow_from_the_seed() -> None:
    chosen = settings(
        kill="driver,worker,child,server", drain="worker",
        term_all="worker", pause="worker", cut="network", clock_back="server", second_server="server",
    )  # fmt: skip
    first = list(itertools.islice(strikes(chosen), 200))
    assert first == list(itertools.islice(strikes(chosen), 200))
    assert {(strike.what, strike.victim) for strike in first} == set(chosen.faults)
    # The first round has all of them.
    kinds = [(strike.what, strike.victim) for strike in first[: len(chosen.faults)]]
    assert sorted(kinds) == sorted(chosen.faults)
    mean_s = sum(strike.after_s for strike in first) / len(first)
    assert 0.5 * chosen.fault_every_s < mean_s < 2 * chosen.fault_every_s
    # Some outlast a lease, most do not.
    long = sum(strike.lasts_s > chosen.lease_s for strike in first)
    assert 0.05 * len(first) < long < 0.5 * len(first)


def test_not_every_seed_begins_alike() -> None:
    kill = "driver,worker,child,server"
    firsts = {next(strikes(settings(kill=kill, seed=seed))).victim for seed in range(30)}
    assert firsts == set(kill.split(","))


def test_no_faults() -> None:
    assert list(strikes(settings(kill="none", pause="none", cut="none"))) == []


def test_the_command_repeats_the_attack() -> None:
    command = settings(kill="driver, child", pause="none", cut="network", seed=7, minutes=0.5).command()
    assert shlex.split(command) == shlex.split(
        "queue-eval chaos --evaluations 40 --method process --workers 2 --slots 2 --kill driver,child "
        "--drain none --term-all none --pause none --cut network --clock-back none --second-server none "
        "--seed 7 --minutes 0.5 --fault-every 1 --lease 4"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kill", "driver,cat"), "--kill 'cat' is not possible; choose among driver, worker, child"),
        (("--drain", "server"), "--drain 'server' is not possible; choose among worker"),
        (("--term-all", "child"), "--term-all 'child' is not possible; choose among worker"),
        (("--pause", "child"), "--pause 'child' is not possible; choose among worker, driver, server"),
        (("--clock-back", "worker"), "--clock-back 'worker' is not possible; choose among server"),
        (("--cut", ""), "--cut '' is not possible; choose among network"),
        (("--lease", "100ms"), "a lease of 0.1 s is shorter"),
        (("--fault-every", "1ms"), "a fault every 0.001 s is too often"),
        *((("--minutes", given), f"--minutes {given} is no time") for given in ("nan", "inf", "0", "-1")),
        (("--minutes", "soon"), "not a valid float"),
        (("--lease", "9" * 400), "--lease inf never comes to its end"),
        (("--fault-every", "9" * 400), "--fault-every inf never comes to its end"),
        (("--fault-every", "nan"), "'nan' is not a duration"),
        (("--method", "magic"), "'magic' is not one of"),
        (("--evaluations", "0"), "evaluations"),
        (("--workers", "none"), "not a valid integer"),
        (("--keep", __file__), "is not an empty folder"),
        (("--keep", "/proc/nowhere"), "/proc/nowhere: "),
    ],
)
def test_bad_input_is_refused_before_anything_starts(words: tuple[str, ...], said: str) -> None:
    done = cli_here("chaos", *words)
    assert said in complaint(done, 1 if "/proc/nowhere" in words else 2)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue_eval.chaos.settings.find_spec", lambda _: None)
    assert "pip install 'queue-eval[ray]'" in complaint(cli_here("chaos", "--method", "ray"), 1)
    monkeypatch.setattr("queue_eval.chaos.clock.find_spec", lambda _: None)
    assert "pip install 'queue-eval[chaos]'" in complaint(cli_here("chaos", "--clock-back", "server"), 1)
