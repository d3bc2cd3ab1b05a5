"""What a scheduler's environment says of a worker's allocation, and when that ends."""

from __future__ import annotations

import os
import time
from datetime import datetime

import pytest

from queue_eval.errors import UsageError
from tests.support.executor_harness import is_running
from tests.support.fake_squeue import fake_squeue
from tests.support.waiting import wait_until
from workers import resources
from workers.allocation_end import allocation_end, parse_end, time_limit_until
from workers.resources import auto_slots, cores_of
from workers.scheduler import Allocation, allocation
from workers.slot_board import board_for

BATCH = {"SLURM_JOB_ID": "7", "ENVIRONMENT": "BATCH", "SLURMD_NODENAME": "n1", "SLURM_NODEID": "0"}
STEP = BATCH | {"SLURM_STEP_ID": "0"}
SGE = {"JOB_ID": "3", "SGE_TASK_ID": "undefined", "NSLOTS": "4", "NHOSTS": "1", "ENVIRONMENT": "BATCH",
       "JOB_NAME": "search"}  # fmt: skip


@pytest.mark.parametrize("environment", [{}, {"JOB_ID": "3"}, {"JOB_ID": "x", "SGE_TASK_ID": "1"}])
def test_there_is_none(environment):
    assert allocation(environment) is None


@pytest.mark.parametrize(
    ("more", "slots", "share"),
    [
        ({"SLURM_CPUS_ON_NODE": "5", "SLURM_TASKS_PER_NODE": "5"}, 5, 5),  # sbatch -n5
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "3", "SLURM_TASKS_PER_NODE": "2(x2)"}, 6, 6),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4", "SLURM_TASKS_PER_NODE": "1"}, 4, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_TASKS_PER_NODE": "8"}, 8, 8),  # --exclusive
        ({}, None, None),
        ({"SLURM_CPUS_ON_NODE": "many", "SLURM_TASKS_PER_NODE": "2(x"}, None, None),
    ],
)  # fmt: skip
def test_slots_of_a_batch_script(more, slots, share):
    said = allocation(BATCH | more, at_terminal=False)
    assert said == Allocation(
        scheduler="slurm", job_id="7", is_batch=True, node="n1", slots=slots, cores_share=share
    )


@pytest.mark.parametrize(
    ("more", "slots", "share"),
    [
        # Two tasks on each of two nodes, -c3: each task's worker has three.
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
          "SLURM_NODEID": "1"}, 3, 3),
        ({"SLURM_CPUS_ON_NODE": "5", "SLURM_STEP_TASKS_PER_NODE": "5"}, 1, 1),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_STEP_TASKS_PER_NODE": "1"}, 8, 8),
        ({"SLURM_CPUS_ON_NODE": "7", "SLURM_STEP_TASKS_PER_NODE": "1(x2),3", "SLURM_NODEID": "2"}, 2, 2),
        # A step of one core in a job of eight: the variable of -c is the job's.
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "8", "SLURM_STEP_TASKS_PER_NODE": "1"}, 1, 1),
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "4"}, 1, 1),
    ],
)  # fmt: skip
def test_slots_of_a_task_of_a_step(more, slots, share):
    said = allocation(STEP | more, at_terminal=False)
    assert (said.slots, said.cores_share, said.is_batch) == (slots, share, True)


def test_the_shell_of_salloc():
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_CPUS_PER_NODE": "4(x2)", "SLURM_TASKS_PER_NODE": "4(x2)"}
    said = allocation(environment, at_terminal=False)
    assert (said.slots, said.cores_share, said.is_batch, said.node) == (4, 4, False, None)


@pytest.mark.parametrize(
    ("environment", "at_terminal", "is_batch"),
    [
        (BATCH, False, True), (BATCH, True, False), (STEP, False, True), (STEP, True, False),
        (STEP | {"SLURM_PTY_PORT": "45605"}, False, False), ({"SLURM_JOB_ID": "7"}, False, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, False, True),
        (SGE, False, True), (SGE, True, False), (SGE | {"JOB_NAME": "QRLOGIN"}, False, False),
        (SGE | {"QRSH_PORT": "host:35041"}, False, False),
        ({name: value for name, value in SGE.items() if name != "ENVIRONMENT"}, False, False),
    ],
)  # fmt: skip
def test_whether_somebody_sits_there(environment, at_terminal, is_batch):
    assert allocation(environment, at_terminal=at_terminal).is_batch is is_batch


def test_job_ids_and_restarts():
    array = BATCH | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3"}
    said = allocation(array)
    assert (said.job_id, said.restarts) == ("5_2", 3)
    said = allocation(SGE | {"SGE_TASK_ID": "1", "RESTARTED": "1"})
    assert (said.scheduler, said.job_id, said.restarts, said.node) == ("sge", "3.1", 1, None)
    assert allocation(SGE).job_id == "3"


def test_slots_of_grid_engine(tmp_path, monkeypatch):
    assert (allocation(SGE).slots, allocation(SGE).cores_share) == (4, 4)
    hosts = tmp_path / "pe_hostfile"
    hosts.write_text("n1.site 3 all.q@n1 UNDEFINED\nn2.site 2 all.q@n2 UNDEFINED\n")
    several = SGE | {"NSLOTS": "5", "NHOSTS": "2", "PE_HOSTFILE": str(hosts)}
    monkeypatch.setattr("socket.gethostname", lambda: "n2")
    assert allocation(several).slots == 2, "NSLOTS counts all hosts"
    hosts.unlink()
    assert allocation(several).slots is None


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores; gives the function that narrows the mask."""
    mask = set(range(8))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(mask), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def narrow(*cores: int) -> None:
        mask.intersection_update(cores)

    return narrow


def told(slots: int | None, share: int | None, cores: tuple[int, ...] | None = None) -> Allocation:
    return Allocation(
        scheduler="slurm", job_id="7", is_batch=True, slots=slots, cores_share=share, cores=cores
    )


def test_slots_that_are_counted(machine):
    assert auto_slots(None) == auto_slots(told(None, None)) == 8
    assert auto_slots(told(3, 3)) == 3
    assert auto_slots(told(12, 12)) == 12, "who offers more than there is means it"
    machine(0, 1)
    assert auto_slots(None) == auto_slots(told(3, 3)) == 2, "no more than this process may run on"


def test_cores_that_are_counted(machine):
    assert cores_of(None) == cores_of(told(3, None)) == cores_of(told(12, 12)) == 8
    assert cores_of(told(3, 3)) == 3
    machine(0, 1)
    assert cores_of(told(3, 3)) == 2


def owned_cores(allotted: Allocation | None, cores: str | None = None) -> list[tuple[int, ...]]:
    board = board_for(2, gpus=None, cores=cores, cores_per_slot=1, allocation=allotted)
    return [means.cores for means in board.means]


def test_cores_of_a_shared_node(machine):
    assert owned_cores(None) == owned_cores(told(8, 8)) == [(0,), (1,)]
    with pytest.raises(UsageError, match=r"job 7 has 2 of the 8 cores .* not tell which; leave --cores"):
        owned_cores(told(2, 2))
    assert owned_cores(told(2, 2, (4, 5))) == [(4,), (5,)]
    with pytest.raises(UsageError, match="not tell which"):
        owned_cores(told(2, 2, (7, 8)))  # cores that this process may not run on: another numbering
    assert owned_cores(told(2, 2), "6-7") == [(6,), (7,)], "the user knows"
    machine(2, 3)
    assert owned_cores(told(2, 2)) == [(2,), (3,)], "the mask is the allocation's own"


def bound(kind: str, cores: str, task: int = 0) -> dict[str, str]:
    return STEP | {
        "SLURM_CPU_BIND_TYPE": kind, "SLURM_CPU_BIND_LIST": cores, "SLURM_LOCALID": str(task)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        (bound("mask_cpu:", "0x3,0xC", task=1), (2, 3)), (bound("mask_cpu:", "0x3"), (0, 1)),
        (bound("map_cpu:", "4,6", task=2), (4,)), (bound("none", "0x3"), None),
        (bound("mask_cpu:", "0x0"), None), (bound("mask_cpu:", "all"), None), (STEP, None),
        (SGE | {"SGE_BINDING": "2 0"}, (0, 2)), (SGE | {"SGE_BINDING": "NULL"}, None), (SGE, None),
    ],
)  # fmt: skip
def test_which_cores_a_scheduler_names(environment, cores):
    assert allocation(environment).cores == cores


# The end

NOW = datetime(2026, 11, 27, 12, 0, 0).timestamp()  # noqa: DTZ001 - local, as squeue prints it


@pytest.mark.parametrize(
    ("text", "left_s", "why"),
    [
        ("2026-11-27T18:00:00\n", 6 * 3600, ""), ("2026-11-27T11:00:00", -3600, ""),
        ("1-02:00:56", 93656, ""), ("02:00:56\n", 7256, ""), ("30:00", 1800, ""), ("0:07", 7, ""),
        ("2026-11-27T18:00:00\nN/A\n2026-11-27T13:00:00\n", 3600, ""),  # of several, the first
        ("N/A\n", None, "has no end (N/A)"), ("NONE", None, "has no end (NONE)"),
        ("UNLIMITED", None, "has no end (UNLIMITED)"), ("", None, "knows of no such job"),
        ("\n \n", None, "knows of no such job"), ("Unknown", None, "prints 'Unknown'"),
        ("INVALID", None, "prints 'INVALID'"), ("NOT_SET", None, "prints 'NOT_SET'"),
        ("2026-13-45T99:00:00", None, "prints '2026-13"), ("9999-12-31T23:59:59", None, "prints '9999"),
        ("sometime\x1b[0m", None, "prints 'sometime\\x1b"), ("x" * 5000, None, "prints 'xxx"),
    ],
)  # fmt: skip
def test_what_squeue_prints(text, left_s, why):
    end = parse_end(text, NOW)
    if left_s is None:
        assert end.at is None
        assert why in end.why
        assert len(end.why) < 200
    else:
        assert end.at == NOW + left_s


@pytest.fixture
def zone(monkeypatch):
    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


def test_times_are_those_of_the_node(zone):
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    midnight_utc = 1792886400.0  # 2026-10-25, the day on which clocks go back
    assert parse_end("2026-10-25T01:30:00", midnight_utc - 3600).at == midnight_utc - 1800
    # 02:30 comes twice: first at 00:30 UTC, and an hour later.
    assert parse_end("2026-10-25T02:30:00", midnight_utc).at == midnight_utc + 1800
    assert parse_end("2026-10-25T02:30:00", midnight_utc + 3600).at == midnight_utc + 5400


SLURM = allocation(BATCH)


def test_slurm_is_asked_for_the_job_as_users_write_it(tmp_path):
    squeue = fake_squeue(tmp_path, 'echo "$@" > "$0.asked"; env > "$0.env"; echo 1-00:00:00')
    environment = squeue | {"SQUEUE_STATES": "PD", "SLURM_TIME_FORMAT": "relative"}
    array = allocation(BATCH | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})
    end = allocation_end(array, environment, ask=True)
    assert end.at == pytest.approx(time.time() + 86400, abs=20)
    assert (tmp_path / "bin" / "squeue.asked").read_text() == "-h -j 5_2 -o %e\n"
    seen = (tmp_path / "bin" / "squeue.env").read_text()
    assert "SQUEUE_STATES" not in seen
    assert "SLURM_TIME_FORMAT" not in seen
    (tmp_path / "bin" / "squeue.asked").unlink()
    assert allocation_end(SLURM, environment | {"SLURM_JOB_END_TIME": "1900000000"}, ask=True).at == 1.9e9
    assert allocation_end(SLURM, environment, ask=False).at is None
    assert not (tmp_path / "bin" / "squeue.asked").exists()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
         "squeue failed with status 1: slurm_load_jobs error: Unable to contact"),
        ("exit 3", "squeue failed with status 3: no message"),
        ("kill -9 $$", "squeue failed with status -9"),
        ("exit 0", "knows of no such job"),
    ],
)  # fmt: skip
def test_squeue_does_not_know(tmp_path, script, why):
    end = allocation_end(SLURM, fake_squeue(tmp_path, script), ask=True)
    assert end.at is None
    assert why in end.why


def test_squeue_that_does_not_answer_is_ended_with_all_that_it_started(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # Neither it nor what it starts ends by itself, and both keep its output open.
    squeue = fake_squeue(tmp_path, f'cat {gate} & echo $! > "$0.pid"; wait')
    began = time.monotonic()
    end = allocation_end(SLURM, squeue, ask=True, ask_s=2.0)
    assert time.monotonic() - began < 15
    assert (end.at, end.why) == (None, "squeue did not answer within 2 s")
    pid = int((tmp_path / "bin" / "squeue.pid").read_text())
    wait_until(lambda: not is_running(pid))


def test_there_is_no_squeue(tmp_path):
    end = allocation_end(SLURM, {"PATH": str(tmp_path)}, ask=True)
    assert (end.at, end.why) == (None, "there is no squeue on the PATH")


def test_nobody_can_be_asked(tmp_path):
    squeue = fake_squeue(tmp_path, "echo 1-00:00:00")
    assert "in no allocation" in allocation_end(None, squeue, ask=True).why
    assert "Grid Engine does not tell" in allocation_end(allocation(SGE), squeue, ask=True).why


def test_the_limit_counts_from_the_start_of_the_process(caplog):
    caplog.set_level("INFO")
    began_at = time.monotonic() - 100
    limit_s = time_limit_until(parse_end("1:00:00", time.time()), began_at)
    assert limit_s == pytest.approx(3700, abs=5)
    assert time_limit_until(parse_end("2020-01-01T00:00:00", time.time()), began_at) == 0.0
    assert time_limit_until(parse_end("NONE", time.time()), began_at) is None
    assert caplog.messages[-1].endswith("there is no time limit, because its allocation has no end (NONE)")


def test_thread_limits():
    environment = {"MKL_NUM_THREADS": "9"}
    resources.set_thread_limits(environment, 3)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("3", "9")
