"""What processes that are dead have left in shared memory: joblib's semaphores and arrays.

Resource trackers remove them, unless they are killed with those that they work for. A name tells who made it;
nobody else uses it then. So what is removed is provably of nobody: it belongs to this user, no living process
has the number in its name (in any namespace of process ids), and none has it open or mapped.
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

_OLD_S = 60.0
"""A tracker may still be at work on what is younger."""

_FIRST_NAMESPACE = 0xEFFFFFFC
"""The number of the first namespace of process ids, from which all processes are seen."""


class Remains(NamedTuple):
    """Entries of the dead, and what they take."""

    paths: list[Path]
    size: int


def remains(folder: Path = FOLDER) -> Remains:
    now = time.time()
    found: list[tuple[Path, int]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            status = path.lstat()
            maker = _NAMES.match(path.name)
            if maker and status.st_uid == os.getuid() and now - status.st_mtime > _OLD_S:
                found.append((path, int(maker[1])))
    if not found:
        return Remains([], 0)
    living, used = _living(), _used(folder)
    paths = [path for path, pid in found if pid not in living and path.name not in used]
    return Remains(paths, sum(map(_size, paths)))


def sees_all() -> bool:
    """Whether all processes of this machine are seen from here: those of other containers may use the same
    shared memory."""
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_NAMESPACE
    return False


def remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # somebody else was faster
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _size(path: Path) -> int:
    """Bytes that it takes."""
    with suppress(OSError):
        below = [path, *(path.rglob("*") if path.is_dir() else ())]
        return sum(each.lstat().st_blocks * 512 for each in below)
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
