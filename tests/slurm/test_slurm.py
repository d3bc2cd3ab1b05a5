"""What Slurm does to a job costs no evaluation anything: a real Slurm, and the files that users are given.

Each test: 200 evaluations, a worker in a job, one fault while evaluations run, workers that finish the rest.
Each result came once; no attempt and no loss was charged; nothing runs outside an allocation.
"""

from __future__ import annotations

import pytest

from tests.support.slurm_search import Search
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

EXEC = ("worker.sbatch",)
SRUN = ("worker-srun.sbatch", "-c4")
"""The same 8 slots on two nodes."""

both = pytest.mark.parametrize("form", [EXEC, SRUN], ids=["exec", "srun"])
NO_WARNING = "--signal=B:CONT@1"
"""In place of the early warning of the files: this one changes nothing."""


def finish(search: Search, *, given_back: bool = True) -> None:
    """A healthy worker serves what is left, and ends. Some of that had begun on the one that ended."""
    search.submit("worker.sbatch", worker=("--idle-timeout", "5s"))
    jobs = search.finish()
    assert not given_back or any(job.releases for job in jobs)
    search.check_cluster_is_empty()


def end(search: Search, job: str, *command: str) -> str:
    """Let this command end the job; how it ended. All that ran in it is gone by then."""
    before = search.processes_of(job)
    assert before
    search.cluster.run(*command, job)
    state = search.wait_off(job)
    search.check_gone(before)
    return state


@both
def test_scancel(begin, form):
    search = begin()
    job = search.submit(*form)
    search.wait_busy(job)
    assert end(search, job, "scancel") == "CANCELLED"
    finish(search)


@pytest.mark.parametrize(
    ("form", "how"),
    [
        (EXEC, ("-b", "-s", "TERM")), (EXEC, ("-b", "-s", "USR2")),
        (SRUN, ("-s", "TERM")), (SRUN, ("-s", "USR2")),
    ],
    ids=["exec-term", "exec-usr2", "srun-term", "srun-usr2"],
)  # fmt: skip
def test_a_signal_that_asks_for_a_drain(begin, form, how):
    search = begin()
    job = search.submit(*form)
    search.wait_busy(job)
    before = search.processes_of(job)
    search.cluster.run("scancel", *how, job)
    assert search.wait_off(job, 80) == "COMPLETED"
    search.check_gone(before)
    # After SIGUSR2 there are 50 s.
    finish(search, given_back="TERM" in how)


@both
def test_requeue(begin, form):
    search = begin()
    job = search.submit(*form, worker=("--idle-timeout", "5s"))
    search.wait_busy(job)
    assert end(search, job, "scontrol", "requeue") == "PENDING"
    began = len(search.begun_by(job))
    # It starts again under the same id, and serves the rest.
    search.wait_busy(job, began + 20)
    assert any(evaluation.releases for evaluation in search.finish())
    search.check_cluster_is_empty()


@both
def test_preemption(begin, form):
    search = begin()
    # It may be requeued, and serve the rest beside the other worker.
    job = search.submit(*form, worker=("--idle-timeout", "5s"))
    search.wait_busy(job)
    before = search.processes_of(job)
    urgent = search.cluster.run(
        "sbatch", "--parsable", "-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"
    ).strip()
    wait_until(lambda: search.state(urgent) == "COMPLETED", 120)
    search.check_gone(before)
    finish(search)


@both
def test_walltime(begin, form):
    search = begin(short_s=2.5)
    job = search.submit(*form, "-t1", NO_WARNING, worker=("--time-limit", "1d"))
    search.wait_busy(job)
    before = search.processes_of(job)
    assert search.wait_off(job, 150) == "TIMEOUT"
    search.check_gone(before)
    finish(search)


@both
def test_the_early_warning_before_the_walltime(begin, form):
    search = begin()
    job = search.submit(*form, "-t2")
    search.wait_busy(job)
    before = search.processes_of(job)
    assert search.wait_off(job, 150) == "COMPLETED"
    search.check_gone(before)
    # There may be time enough for all that ran.
    finish(search, given_back=False)


def test_a_killed_slurmctld(begin):
    search = begin()
    job = search.submit(*EXEC, worker=("--idle-timeout", "5s"))
    # Not at once: a controller that dies before it has written down that the job runs starts it again.
    search.wait_busy(job, 80)
    search.cluster.kill_controller()
    search.wait_busy(job, 120)
    search.cluster.start_controller()
    search.finish()
    search.check_cluster_is_empty()
    assert search.state(job) == "COMPLETED"


def test_a_killed_slurmd_whose_worker_lives_on(begin):
    """The one fault that may charge what runs: its worker is killed without a word when slurmd is back."""
    search = begin(short_s=2.5)
    job = search.submit(*EXEC, "-w", "n1", worker=("--idle-timeout", "5s"))
    search.wait_busy(job)
    before = search.processes_of(job)
    search.cluster.kill_node("n1")
    # Slurm gives the node up, and starts the job again elsewhere, while the first worker goes on.
    wait_until(lambda: search.state(job) == "PENDING", 60)
    assert any(each.is_running() for each in before)
    search.cluster.run("scontrol", "update", f"JobId={job}", "ReqNodeList=")
    wait_until(lambda: search.state(job) == "RUNNING", 60)
    search.cluster.start_node("n1")
    search.finish(losses=16)
    search.check_cluster_is_empty()
    search.check_gone(before)
