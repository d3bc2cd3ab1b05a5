"""What the slots of a worker own: GPUs, and cores with the thread limits that go with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from queue_eval.errors import UsageError
from workers.scheduler import Allocation

THREAD_LIMITS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
"""Variables by which libraries are told how many threads to use, when the user has not."""

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"

_MAX_CORE_NUMBER = 1 << 16
"""Core numbers are below this."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Means:
    """What one slot owns, or several together. Empty: it owns nothing, and shares what there is."""

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        parts = [f"GPU {', '.join(self.gpus)}"] * bool(self.gpus)
        parts += [f"cores {ranges(self.cores)}"] * bool(self.cores)
        return "; ".join(parts) or "nothing"

    def environment(self, base: Mapping[str, str], *, threads: int = 1) -> dict[str, str]:
        """The environment `base`, for a process that owns this and runs user code in so many threads."""
        environment = dict(base)
        if self.gpus:
            environment[VISIBLE_GPUS] = ",".join(self.gpus)
        if self.cores:
            set_thread_limits(environment, max(1, len(self.cores) // threads))
        return environment


def set_thread_limits(environment: dict[str, str], threads: int) -> None:
    """Have libraries use so many threads, unless the user has set the variable."""
    for name in THREAD_LIMITS:
        environment.setdefault(name, str(threads))


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of(allocation: Allocation | None) -> int:
    """How many cores this worker has: as many as its scheduler says, else all that it may run on."""
    share = allocation.cores_share if allocation is not None else None
    return usable_cores() if share is None else min(share, usable_cores())


def auto_slots(allocation: Allocation | None) -> int:
    """How many slots `--slots auto` means."""
    usable = usable_cores()
    granted = allocation.slots if allocation is not None else None
    if granted is None:
        return usable
    # A scheduler that grants more than the node has means it. A mask that leaves cores out is a limit.
    return granted if usable >= (os.cpu_count() or 1) else min(granted, usable)


def joined(means: Iterable[Means]) -> Means:
    """What several slots own together."""
    parts = tuple(means)
    return Means(
        tuple(dict.fromkeys(gpu for part in parts for gpu in part.gpus)),
        tuple(sorted({core for part in parts for core in part.cores})),
    )


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Keep processes that the calling thread starts meanwhile on these cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def share_out(
    slots: int, *, gpus: Sequence[str] = (), cores: Sequence[int] = (), cores_per_slot: int | None = None
) -> tuple[Means, ...]:
    """What each slot owns.

    GPUs are shared out evenly; with more slots than GPUs, slots share them in turn. Each slot gets a set of
    `cores_per_slot` cores, else as large as possible, and the sets do not overlap. Raises UsageError when
    there are too few cores.
    """
    wanted = slots * (cores_per_slot or 1)
    if cores and len(cores) < wanted:
        each = cores_per_slot or 1
        raise UsageError(
            f"{slots} slots with {each} core{'s' * (each > 1)} each need {wanted} cores, and there are "
            f"{len(cores)}; give more --cores or fewer slots"
        )
    if cores and cores_per_slot:
        cores = cores[:wanted]
    # GPUs are given in turn: neighbouring slots, which a wide job takes first, are then on different GPUs.
    in_turn = [gpus[i % len(gpus)] for i in range(slots)] if gpus else []
    gpu_sets = _portions(gpus if len(gpus) >= slots else in_turn, slots)
    core_sets = _portions(cores, slots)
    return tuple(Means(tuple(g), tuple(c)) for g, c in zip(gpu_sets, core_sets, strict=True))


def _portions(items: Sequence[_Item], count: int) -> list[Sequence[_Item]]:
    """Cut items into portions of neighbours. If they do not divide evenly, the first are one larger."""
    each, more = divmod(len(items), count)
    starts = [i * each + min(i, more) for i in range(count + 1)]
    return [items[first:last] for first, last in pairwise(starts)]


def parse_gpus(text: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs of ``0,1`` or ``all``, among those that this worker may use. Raises UsageError."""
    visible = _visible(environment)
    if text.strip().lower() in ("all", "auto"):
        found = _present() if visible is None else visible
        if not found:
            why = "this machine shows none" if visible is None else f"{VISIBLE_GPUS} names none"
            raise UsageError(f"--gpus {text}: {why}; name them, like --gpus 0,1")
        return found
    wanted = tuple(name.strip() for name in text.split(","))
    bad = [name for name in wanted if not re.fullmatch(r"\d+|(GPU|MIG)-[\w./-]+", name)]
    if bad:
        raise UsageError(f"--gpus {text!r} is not valid; give numbers or UUIDs, like 0,1, or all")
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"--gpus {text} names one twice; slots share GPUs when there are more slots")
    if visible is not None and (hidden := [name for name in wanted if name not in visible]):
        raise UsageError(
            f"GPU {', '.join(hidden)} is not among those that {VISIBLE_GPUS} lets this worker use "
            f"({','.join(visible) or 'none'}); choose among these"
        )
    return wanted


def parse_cores(text: str | None) -> tuple[int, ...]:
    """The cores of ``0-7`` or ``0,2,4-6``, or all that this worker may use. Raises UsageError."""
    if not hasattr(os, "sched_getaffinity"):
        raise UsageError("--cores is not possible on this system: processes cannot be kept to cores")
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    if text is None:
        return allowed
    wanted: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MAX_CORE_NUMBER:
            raise UsageError(f"--cores {text!r} is not valid; give numbers and ranges, like 0-7 or 0,2,4-6")
        wanted += range(first, last + 1)
    if hidden := sorted(set(wanted) - set(allowed)):
        raise UsageError(
            f"core {', '.join(map(str, hidden[:8]))} is not among those that this worker may use "
            f"({ranges(allowed)}); choose among these"
        )
    return tuple(sorted(set(wanted)))


def own_cores(allocation: Allocation | None) -> tuple[int, ...]:
    """The cores of this worker when the user names none. Raises UsageError if others may have the same."""
    allowed = parse_cores(None)
    share = allocation.cores_share if allocation is not None else None
    if allocation is None or share is None or share >= len(allowed):
        return allowed
    if allocation.cores is not None and set(allocation.cores) <= set(allowed):
        return allocation.cores
    raise UsageError(
        f"job {allocation.job_id} has {share} of the {len(allowed)} cores that this worker may run on, and "
        "its scheduler does not tell which; leave --cores-per-slot out, or name the cores by --cores, or "
        "have jobs kept to their cores (Slurm: TaskPlugin=task/affinity,task/cgroup; Grid Engine: -binding)"
    )


def ranges(cores: Sequence[int]) -> str:
    """Cores as a user writes them: ``0-3,8``."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _visible(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """The GPUs that the environment leaves visible; None when it says nothing."""
    text = environment.get(VISIBLE_GPUS)
    if text is None:
        return None
    names = []
    for name in (name.strip() for name in text.split(",")):
        if not name or name == "-1":
            break  # as CUDA reads it: what follows is invisible, too
        names.append(name)
    return tuple(names)


def _present() -> tuple[str, ...]:
    """The NVIDIA GPUs of this machine."""
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(sorted((match[1] for match in names if match), key=int))
