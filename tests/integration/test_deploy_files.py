"""The files of examples/deploy: each is well-formed, and the worker that it starts runs a job.

Those of Slurm are also submitted to a real Slurm: see tests/slurm.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fault_fleet import ROOT
from tests.support.marks import long

FILES = ROOT / "examples/deploy"
SCRIPTS = ("worker.sbatch", "worker-srun.sbatch", "worker.sge")
UNIT = FILES / "queue-eval-worker.service"
VENV = Path(sys.executable).parents[1]
PROGRAM = VENV / "bin/queue-eval"


def unit_command() -> list[str]:
    """What systemd would start, with this environment's program."""
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    return [str(PROGRAM), *shlex.split(line)[1:]]


def pod():
    yaml = pytest.importorskip("yaml")
    (document,) = yaml.safe_load_all((FILES / "worker.yaml").read_text())
    return document["spec"]["template"]["spec"]


def pod_command() -> list[str]:
    (container,) = pod()["containers"]
    return [str(PROGRAM), *container["args"]]


def grid_engine_command() -> list[str]:
    return ["bash", str(FILES / "worker.sge")]


@pytest.mark.parametrize("command", [unit_command, *long(pod_command, grid_engine_command)])
def test_the_worker_of_the_file_runs_a_job(fleet, campaign, command):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "QUEUE_EVAL_VENV": str(VENV), "QUEUE_EVAL_HOME": str(fleet.home),
    }  # fmt: skip
    if command is grid_engine_command:
        environment |= {"NSLOTS": "3", "JOB_ID": "17", "SGE_TASK_ID": "undefined"}
    with fleet.driver(campaign) as driver:
        driver.submit([fleet.config(5)])
        words = [*command(), "--campaign", campaign, "--idle-timeout", "1s"]
        done = subprocess.run(
            words, env=environment, cwd=fleet.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (job,) = driver.gather("ALL", timeout=10)
        assert job.result == 5
    if command is grid_engine_command:
        assert ": 3 slots for" in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_batch_script_becomes_its_worker(name):
    """A shell that stayed in between would die of the signal, and leave the worker alone."""
    text = (FILES / name).read_text()
    assert subprocess.run(["bash", "-n", FILES / name], check=False).returncode == 0
    assert text.replace("\\\n", " ").strip().splitlines()[-1].startswith("exec ")


@pytest.mark.parametrize("name", SCRIPTS[:2])
def test_a_requeued_job_keeps_its_log(name):
    options = re.findall(r"^#SBATCH (.*)", (FILES / name).read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append"} <= set(options)


def test_systemd_understands_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text().replace("/srv/search/.venv/bin/queue-eval", str(PROGRAM))
    unit = tmp_path / UNIT.name
    unit.write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_end_leaves_time_for_the_drain():
    """SIGKILL comes after the drain's deadline, not before."""
    settings = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line[1:])
    assert settings["KillMode"] == "mixed"
    assert int(settings["TimeoutStopSec"]) > 300 == drain_s(unit_command())
    assert pod()["terminationGracePeriodSeconds"] > 300 == drain_s(pod_command())


def drain_s(command: list[str]) -> int:
    value = command[command.index("--drain-timeout") + 1]
    return int(value.removesuffix("m")) * 60
