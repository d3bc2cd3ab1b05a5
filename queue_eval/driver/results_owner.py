"""Whose results a file holds. No campaign overwrites those of another: it keeps them under another name.

A file that we write bears its campaign as an extended attribute, where the file system has these. Elsewhere,
and for files of earlier versions, its first rows are compared: in one campaign, equal jobs have equal times.
"""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from queue_eval.model.table_cells import cells_of_any_length

_ATTRIBUTE = "user.queue_eval.campaign"

_SAMPLE = 1000
"""How many rows of a file without a mark are compared."""


class Owner(NamedTuple):
    """A campaign. `uid` tells it from others of the same name."""

    campaign: str
    uid: str


def mark(path: Path, owner: Owner) -> None:
    """Mark a file with the owner of its results, if the file system can hold that."""
    if hasattr(os, "setxattr"):
        with suppress(OSError):
            os.setxattr(path, _ATTRIBUTE, f"{owner.campaign} {owner.uid}".encode())


def owner_of(path: Path) -> Owner | None:
    """The owner of a file's results; None without a mark."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        campaign, _, uid = os.getxattr(path, _ATTRIBUTE).decode().partition(" ")
    except (OSError, UnicodeDecodeError):
        return None
    return Owner(campaign, uid)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Within, no other driver replaces a file in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # Not every file system has locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def keep_of_others(target: Path, owner: Owner, rows: Iterable[dict[str, Any]]) -> str:
    """Give `target` a second name if its results are not `owner`'s, so that it may be replaced.

    `rows`: those of `owner`. Returns a sentence for the user that says what was done; "" for nothing. May be
    repeated.
    """
    if not target.is_file():
        return ""
    found = owner_of(target)
    if found == owner or (found is None and _is_same(target, rows)):
        return ""
    kept = _free_name(target, found)
    _name_twice(target, kept)
    mine = f"campaign {owner.campaign!r}"
    whose = f"campaign {found.campaign!r}" if found else "something else"
    if whose == mine:
        whose = "an earlier campaign of that name"
    return f"{target} held results of {whose}, not of {mine}; they are now in {kept.name}"


def _is_same(target: Path, rows: Iterable[dict[str, Any]]) -> bool:
    """Whether a file is of the same campaign as `rows`: most jobs that are in both are equal."""
    try:
        with cells_of_any_length(), target.open(newline="", encoding="utf-8", errors="replace") as file:
            known = {
                row["id"]: (row["elapsed_sec"], row["duration"])
                for row in islice(csv.DictReader(file), _SAMPLE)
            }
    except (KeyError, csv.Error):
        return False
    same = different = 0
    for row in rows:
        times = known.pop(str(row["id"]), None)
        if times is not None:
            is_equal = times == (str(row["elapsed_sec"]), str(row["duration"]))
            same, different = same + is_equal, different + (not is_equal)
        if not known:
            break
    # Not all are equal: jobs that were retried since have other times.
    return same > 0 and same >= different


def _free_name(target: Path, found: Owner | None) -> Path:
    """A name for the kept file. It is free, or holds older results of the same campaign."""
    part = found.campaign if found else time.strftime("%Y%m%d-%H%M%S", time.localtime(target.stat().st_mtime))
    number = 1
    while True:
        ending = f".{number}" if number > 1 else ""
        kept = target.with_name(f"{target.stem}.{part}{ending}{target.suffix}")
        if not kept.exists() or kept.samefile(target) or (found is not None and owner_of(kept) == found):
            return kept
        number += 1


def _name_twice(target: Path, kept: Path) -> None:
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(target, temporary)
        except OSError:  # The file system has no hard links.
            shutil.copy2(target, temporary)
        temporary.replace(kept)
    finally:
        temporary.unlink(missing_ok=True)
