"""Tells how busy this host and the worker's GPUs are, for the worker's card.

A measurement may hang: a broken driver makes `nvidia-smi` wait for ever. So it is made in a thread of its
own, and the heartbeat takes what the last one has found.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from queue_eval.campaign.registry import GpuUse
from queue_eval.foreign_text import plain

log = plain(logging.getLogger(__name__))

_GPU_TOOL_S = 5.0
_STALE_S = 60.0
_QUERY = "index,uuid,utilization.gpu,memory.used,memory.total"
_MIB = 2**20

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


class HostUse:
    """The newest measurement. `gpus`: numbers or UUIDs of those that the slots own."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = tuple(gpus)
        self._newest: dict[str, Any] = {}
        self._measured_at = 0.0
        self._thread: threading.Thread | None = None

    def newest(self) -> dict[str, Any]:
        """Fields of a card, and begin to measure anew. Empty when the last minute has brought nothing."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._measure, name="host-use", daemon=True)
            self._thread.start()
        return self._newest if time.monotonic() < self._measured_at + _STALE_S else {}

    def _measure(self) -> None:
        try:
            found: dict[str, Any] = {"load": host_load()} | host_memory()
            if self._gpus:
                found["gpus"] = gpu_use(self._gpus)
        except Exception as error:  # nothing may depend on what only people look at
            log.debug("how busy the host is cannot be told: %s", error)
            found = {}
        self._newest = {name: value for name, value in found.items() if value is not None}
        self._measured_at = time.monotonic()


def host_load() -> float:
    """Processes that run or want to run on this host, a mean over a minute, for each of its cores."""
    return round(psutil.getloadavg()[0] / (os.cpu_count() or 1), 3)


def host_memory() -> dict[str, int]:
    """`memory_used` and `memory_total` (bytes) of the host, or of the control group with the lowest limit."""
    memory = psutil.virtual_memory()
    used, total = memory.total - memory.available, memory.total
    for limit, held in _limits():
        if limit < total:
            used, total = held, limit
    return {"memory_used": used, "memory_total": total}


def gpu_use(wanted: Sequence[str]) -> tuple[GpuUse, ...] | None:
    """How busy these GPUs are, in their order; None if `nvidia-smi` does not tell of all of them."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],  # noqa: S607 - the user's
            capture_output=True, text=True, timeout=_GPU_TOOL_S, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("nvidia-smi does not tell how busy the GPUs are: %s", error)
        return None
    found = parse_gpu_use(done.stdout)
    return tuple(found[gpu] for gpu in wanted) if all(gpu in found for gpu in wanted) else None


def parse_gpu_use(text: str) -> dict[str, GpuUse]:
    """The lines of `nvidia-smi`, by number and by UUID of the GPU. A value that it has not is None."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_QUERY.split(",")):
            index, uuid, *rest = cells
            util, used, total = (float(cell) if cell.replace(".", "", 1).isdigit() else None for cell in rest)
            found[index] = found[uuid] = GpuUse(
                util=util, memory_used=None if used is None else int(used * _MIB),
                memory_total=None if total is None else int(total * _MIB),
            )  # fmt: skip
    return found


def _limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of each control group around this process that limits memory."""
    found = []
    for line in _read(_OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cache = _CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = _CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path may be that of the host: then the group's files lie at the top.
        for group in (folder, *folder.parents):
            if not group.is_relative_to(base):
                break
            if (most := _read(group / limit).strip()).isdigit():
                held = int(_read(group / used).strip() or 0) - _stat(group / "memory.stat", cache)
                found.append((int(most), max(0, held)))
    return found


def _stat(file: Path, name: str) -> int:
    """What the kernel would give up first does not count as used."""
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
