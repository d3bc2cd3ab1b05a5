"""A training that is longer than its allocations loses at most what came after its last checkpoint.

It has 40 steps; an allocation has time for twelve. A script submits the next one when one is over, and every
few steps something happens to it: `scancel`, preemption, a node that dies, or the end of its time. Only the
node's death is charged to the job.

A step takes `$TRAINING_STEP_S` seconds: 5 for allocations of one minute, as Slurm has them; by default less.
`$TRAINING_RUNS` trainings are tried, each with a cluster and a seed of its own. See README.md.
"""

from __future__ import annotations

import contextlib
import os
import random

import psutil
import pytest

from tests.slurm.cluster import KILL_WAIT_S
from tests.support.slurm_search import ENDED
from tests.support.slurm_training import STEPS, Training

STEP_S = float(os.environ.get("TRAINING_STEP_S", "1"))
RUNS = int(os.environ.get("TRAINING_RUNS", "2"))

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600 + 10 * STEPS * STEP_S)]


@pytest.mark.parametrize("seed", range(RUNS))
def test_what_a_training_executes_twice_is_what_it_had_not_saved(begin, seed):
    training = begin.training(step_s=STEP_S)
    rng = random.Random(seed)
    dead_nodes = 0
    while not training.has_ended():
        if not training.wait_steps(rng.randint(1, 10)):
            continue
        disturbance = rng.choice((cancel, preempt, kill_node, let_its_time_end))
        disturbance(training, training.allocation())
        dead_nodes += disturbance is kill_node
    job = training.finish()
    training.check_order()
    assert training.steps_begun() <= STEPS + training.steps_since_checkpoints()
    assert job.attempts <= 1 + dead_nodes, job.executions
    assert {report.step for report in job.reports} == set(range(1, STEPS + 1))
    training.cluster.run("scancel", *training.allocations)
    training.check_cluster_is_empty()


def cancel(training: Training, job: str) -> None:
    training.cluster.run("scancel", job)
    training.wait(lambda: training.state(job) in ENDED, KILL_WAIT_S + 30)


def preempt(training: Training, _job: str) -> None:
    """It is requeued, and starts again under the same id."""
    urgent = training.cluster.run(
        "sbatch", "--parsable", "-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    ).strip()
    training.wait(lambda: training.state(urgent) == "COMPLETED", 120)


def kill_node(training: Training, job: str) -> None:
    """All that is on it dies at once; then it comes back."""
    node = training.cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    if not node:
        return  # The allocation has just ended.
    training.cluster.kill_node(node)
    for process in training.processes_of(job):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    training.cluster.start_node(node)
    training.wait(lambda: training.cluster.node_states().get(node) in ("idle", "mixed", "allocated"), 60)


def let_its_time_end(training: Training, job: str) -> None:
    training.wait(lambda: training.has_ended() or training.state(job) in ENDED, 150)
