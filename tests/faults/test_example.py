"""The examples, killed at random and run again, lose and repeat nothing."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
EVALUATIONS = 60


def instrumented(side_log: Path) -> str:
    """The README's first command. Its run function also notes start and end, and trains for less long."""
    source = (EXAMPLES / "tune_digits.py").read_text("utf-8")
    first_line = "    from sklearn.datasets import load_digits\n"
    last_line = "    return cross_val_score("
    assert source.count(first_line) == source.count(last_line) == 1
    note = "    with open({path!r}, 'a') as log: log.write(f'{word} {{config[\"id\"]}}\\n')\n"
    source = source.replace(first_line, note.format(path=str(side_log), word="start") + first_line)
    source = source.replace(last_line, "    score = cross_val_score(")
    end = note.format(path=str(side_log), word="end")
    source = source.replace("cv=3).mean()\n", f"cv=3).mean()\n{end}    return score\n")
    return source.replace("max_iter=40", "max_iter=2")


@pytest.mark.long
def test_killed_three_times_every_evaluation_is_there_once(own_home: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    side_log = tmp_path / "side.log"
    script = tmp_path / "tune_digits.py"
    script.write_text(instrumented(side_log), "utf-8")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.DEVNULL,
            env={**os.environ, "QUEUE_EVAL_HOME": str(own_home)},
        )  # fmt: skip

    def ended() -> list[str]:
        lines = side_log.read_text("utf-8").splitlines() if side_log.exists() else []
        return [line.split()[1] for line in lines if line.startswith("end")]

    rng = random.Random(7)
    for life in range(3):
        driver = start()
        goal = 12 * life + rng.randrange(2, 14)
        wait_until(lambda goal=goal, driver=driver: len(ended()) >= goal or driver.poll() is not None, 60)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert start().wait(timeout=200) == 0

    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["id"]) for row in rows) == list(range(1, EVALUATIONS + 1))
    assert all(0.0 < float(row["objective"]) <= 1.0 for row in rows)
    # Only drivers were killed, so every execution that began has ended, and none was repeated.
    assert sorted(map(int, ended())) == list(range(1, EVALUATIONS + 1))
    assert side_log.read_text("utf-8").count("start") == EVALUATIONS


@pytest.mark.long
def test_the_search_that_stops_early_is_killed_twice(own_home: Path, tmp_path: Path) -> None:
    """Each training begins once; those that a killed script could not stop are stopped by the next one."""
    pytest.importorskip("sklearn")
    side_log = tmp_path / "side.log"
    side_log.touch()
    source = (EXAMPLES / "early_stopping.py").read_text("utf-8")
    first_line = "    job, best = current_job(), 0.0\n"
    assert source.count(first_line) == 1
    note = f"    with open({str(side_log)!r}, 'a') as log: log.write(f'{{current_job().id}}\\n')\n"
    script = tmp_path / "early_stopping.py"
    script.write_text(source.replace(first_line, note + first_line), "utf-8")
    command = [sys.executable, str(script), "--configs", "8"]
    environment = {**os.environ, "QUEUE_EVAL_HOME": str(own_home)}

    def begun() -> list[int]:
        return [int(line) for line in side_log.read_text("utf-8").splitlines()]

    for goal in (2, 5):
        driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=environment)
        wait_until(lambda goal=goal, driver=driver: len(begun()) >= goal or driver.poll() is not None, 60)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    last = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert last.returncode == 0, last.stderr
    assert sorted(begun()) == list(range(1, 9))
    best, stopped, share = last.stdout.splitlines()
    assert float(best.split()[2]) > 0.9
    assert 0 < int(stopped.split()[0]) < 8
    assert int(share.partition("%")[0]) < 70
