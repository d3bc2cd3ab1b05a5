"""The README's first command, killed three times at random and run again, loses and repeats nothing."""

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

EXAMPLE = Path(__file__).parents[2] / "examples" / "tune_digits.py"
EVALUATIONS = 60


def instrumented(side_log: Path) -> str:
    """The example, whose run function also notes each start and end, and trains for less long."""
    source = EXAMPLE.read_text("utf-8")
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
