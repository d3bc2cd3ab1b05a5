"""Finds and removes what dead processes have left in shared memory: joblib's semaphores and arrays.

A resource tracker removes them, unless it is killed together with the process that it works for. An entry is
removed here only if nobody can still use it: it belongs to this user, no living process has the process id in
its name (in any namespace of process ids), and no process has it open or mapped.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/dev/shm")  # noqa: S108 - not for files of ours

_NAMES = re.compile(r"(?:sem\.loky|loky|joblib_memmapping_folder)[-_](\d+)[-_]")

_MIN_AGE_S = 60.0
"""Younger entries stay: a tracker may still be about to remove them."""

_FIRST_PID_NAMESPACE_INODE = 0xEFFFFFFC
"""Inode number of the first namespace of process ids, in which all processes are visible."""


class Remains(NamedTuple):
    """Entries of dead processes. `size`: how many bytes they take together."""

    paths: list[Path]
    size: int


def remains(folder: Path = FOLDER) -> Remains:
    now = time.time()
    found: list[tuple[Path, int]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            status = path.lstat()
            maker = _NAMES.match(path.name)
            if maker and status.st_uid == os.getuid() and now - status.st_mtime > _MIN_AGE_S:
                found.append((path, int(maker[1])))
    if not found:
        return Remains([], 0)
    living, used = _living(), _used(folder)
    paths = [path for path, pid in found if pid not in living and path.name not in used]
    return Remains(paths, sum(map(_size, paths)))


def sees_all() -> bool:
    """Whether all processes of this machine are visible from here.

    If not, processes of other containers may use the same shared memory.
    """
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE_INODE
    return False


def remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # another process has removed it
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _size(path: Path) -> int:
    """How many bytes an entry takes."""
    with suppress(OSError):
        below = [path, *(path.rglob("*") if path.is_dir() else ())]
        return sum(entry.lstat().st_blocks * 512 for entry in below)
    return 0


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


def _living() -> set[int]:
    """The numbers of all processes, in all namespaces."""
    pids: set[int] = set()
    for process in _processes():
        pids.add(int(process.name))
        with suppress(OSError):
            status = (process / "status").read_text(errors="replace")
            numbers = re.search(r"^NSpid:(.*)$", status, re.MULTILINE)
            pids.update(map(int, numbers[1].split()) if numbers else ())
    return pids


def _used(folder: Path) -> set[str]:
    """Names below `folder` that a process has open or mapped."""
    begin = f"{folder}/"
    used: set[str] = set()

    def note(path: str) -> None:
        if path.startswith(begin):
            used.add(path.removeprefix(begin).split("/")[0])

    for process in _processes():
        with suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                note(line[line.find("/") :] if begin in line else "")
        with suppress(OSError):
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    note(str(link.readlink()))
    return used
