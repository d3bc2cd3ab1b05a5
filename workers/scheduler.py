"""What a batch system (Slurm, Grid Engine) tells a worker about its allocation, by environment variables.

This file uses the standard library only. A value is None when the scheduler does not state it, or states it
in a form that we do not know.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERACTIVE_JOBS = ("QLOGIN", "QRLOGIN", "QRSH", "INTERACTIVE", "INTERACTIV")
"""Names that Grid Engine gives to jobs at a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The part of a node that a batch system has given to this worker."""

    scheduler: str
    """`slurm` or `sge`."""
    job_id: str
    """As users and the scheduler's commands write it; a task of an array is `12_3` (Slurm) or `12.3`."""
    is_batch: bool
    """Whether the scheduler sends KILL a while after a signal: it does not for jobs at a terminal."""
    node: str | None = None
    """What the scheduler calls this node."""
    restarts: int = 0
    """How often the job has been started again."""
    slots: int | None = None
    """How many jobs of one core this worker may run at once."""
    cores_share: int | None = None
    """How many cores of the node are for this worker."""
    cores: tuple[int, ...] | None = None
    """Which these are."""


def allocation(environment: Mapping[str, str], *, at_terminal: bool | None = None) -> Allocation | None:
    """The allocation in which this process runs; None outside of any.

    `at_terminal` is whether standard input is a terminal; None: find out.
    """
    if at_terminal is None:
        at_terminal = _is_at_terminal()
    if environment.get("SLURM_JOB_ID"):
        return _slurm(environment, at_terminal)
    # JOB_ID alone may be anybody's variable.
    if environment.get("JOB_ID", "").isdecimal() and "SGE_TASK_ID" in environment:
        return _grid_engine(environment, at_terminal)
    return None


def _slurm(environment: Mapping[str, str], at_terminal: bool) -> Allocation:
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    is_step = _number(environment, "SLURM_STEP_ID") is not None
    # srun --pty names the port to which it sends the size of the terminal.
    by_hand = at_terminal or "SLURM_PTY_PORT" in environment
    on_node = _number(environment, "SLURM_CPUS_ON_NODE") or None
    if on_node is None and not is_step:  # the shell of salloc
        on_node = _of_this_node(environment.get("SLURM_JOB_CPUS_PER_NODE", ""), 0)
    each = _number(environment, "SLURM_CPUS_PER_TASK") or None
    tasks = _slurm_tasks(environment, is_step)
    if is_step:
        # Each task of a step is a worker of its own.
        share = None if on_node is None else max(1, on_node // tasks)
        # srun does not inherit -c in every version, but always the variable: the step may have less.
        slots = share if each is None else min(each, on_node or each)
    else:
        share = on_node
        slots = on_node if each is None else each * tasks
    return Allocation(
        scheduler="slurm",
        job_id=f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"],
        is_batch=not by_hand and (is_step or environment.get("ENVIRONMENT") == "BATCH"),
        node=environment.get("SLURMD_NODENAME") or None,
        restarts=_number(environment, "SLURM_RESTART_COUNT") or 0,
        slots=slots,
        cores_share=share,
        cores=_slurm_cores(environment) if is_step else None,
    )


def _slurm_tasks(environment: Mapping[str, str], is_step: bool) -> int:
    """How many tasks there are on this node."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") if is_step else None
    text = text or environment.get("SLURM_TASKS_PER_NODE", "")
    return _of_this_node(text, _number(environment, "SLURM_NODEID") or 0) or 1


def _of_this_node(text: str, node: int) -> int | None:
    """The number for this node, from numbers as in ``4(x2),3``. `node`: its place."""
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part.strip())
        if match is None:
            return None
        nodes = int(match[2] or 1)
        if node < nodes:
            return int(match[1]) or None
        node -= nodes
    return None


def _slurm_cores(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The cores to which srun binds this task: a mask or a number for each task of the node, in turn."""
    bound = environment.get("SLURM_CPU_BIND_LIST", "").split(",")
    mine = bound[(_number(environment, "SLURM_LOCALID") or 0) % len(bound)].strip()
    kind = environment.get("SLURM_CPU_BIND_TYPE", "").strip(":")
    if kind == "map_cpu":
        return _core_numbers([mine])
    if kind == "mask_cpu" and re.fullmatch(r"(0x)?[0-9A-Fa-f]{1,1024}", mine):
        mask = int(mine, 16)
        return tuple(core for core in range(mask.bit_length()) if mask >> core & 1) or None
    return None


def _core_numbers(words: Sequence[str]) -> tuple[int, ...] | None:
    known = words and all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words)
    return tuple(sorted({int(word) for word in words})) if known else None


def _grid_engine(environment: Mapping[str, str], at_terminal: bool) -> Allocation:
    task = environment["SGE_TASK_ID"]
    slots = _grid_engine_slots(environment)
    return Allocation(
        scheduler="sge",
        job_id=environment["JOB_ID"] + (f".{task}" if task.isdecimal() else ""),
        is_batch=(
            not at_terminal
            and "QRSH_PORT" not in environment
            and environment.get("ENVIRONMENT") == "BATCH"
            and environment.get("JOB_NAME") not in _INTERACTIVE_JOBS
        ),
        restarts=_number(environment, "RESTARTED") or 0,
        slots=slots,
        cores_share=slots,
        cores=_core_numbers(environment.get("SGE_BINDING", "").split()),
    )


def _grid_engine_slots(environment: Mapping[str, str]) -> int | None:
    """The job's slots on this host. NSLOTS counts those of all hosts, which only a file tells apart."""
    if (_number(environment, "NHOSTS") or 1) == 1:
        return _number(environment, "NSLOTS") or None
    try:
        lines = Path(environment.get("PE_HOSTFILE", "")).read_text(errors="replace").splitlines()
    except OSError:
        return None
    here = socket.gethostname().partition(".")[0]
    for words in map(str.split, lines):
        if len(words) > 1 and words[0].partition(".")[0] == here and words[1].isdecimal():
            return int(words[1]) or None
    return None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _is_at_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
