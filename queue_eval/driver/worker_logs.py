"""The logs of local workers: how long they are kept, and the end of one."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from queue_eval.transport.private_files import open_private, read_private

_LOG_TAIL = 2000

_LOG_AGE_S = 14 * 24 * 3600.0
"""Logs of workers that have ended are kept for so long after their last line."""

_LOGS_MOST = 100
"""So many of them at most: the newest."""


def log_name(worker: str) -> str:
    return f"worker-{worker}.log"


def clean_logs(folder: Path, live: Collection[str]) -> None:
    """Remove the logs of workers that ended long ago, or before a hundred others. `live`: workers that have
    not ended."""
    kept = {log_name(worker) for worker in live}
    found = [(_changed_at(path), path) for path in folder.glob(log_name("*")) if path.name not in kept]
    newest_first = sorted(found, reverse=True)
    oldest_kept = time.time() - _LOG_AGE_S
    for number, (changed_at, path) in enumerate(newest_first):
        if number >= _LOGS_MOST or changed_at < oldest_kept:
            _remove_unlocked(path)


def tail(file: Path) -> str:
    try:
        return read_private(file)[-_LOG_TAIL:].decode(errors="replace").strip()
    except OSError:
        return ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another driver was faster
        return 0.0


def _remove_unlocked(path: Path) -> None:
    """Remove the log of a worker that has ended; where the file system has no locks nobody can tell."""
    with suppress(OSError), open(path, "r+b", opener=open_private) as log_file:
        fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
