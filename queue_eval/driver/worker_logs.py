"""The logs below a home, of local workers and of attempts: which are kept, and how last lines are read."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from queue_eval.campaign.keys import is_campaign_name
from queue_eval.runtime.checkpoints import campaign_folder
from queue_eval.runtime.trees import remove_tree
from queue_eval.transport.private_files import open_private, read_private

_LOG_TAIL_BYTES = 2000

_UID = re.compile(r"[0-9a-f]{1,64}")
_OF_CAMPAIGN = re.compile(r"[A-Za-z0-9._-]{1,100}-[0-9a-f]{16}")

_LOG_AGE_S = 14 * 24 * 3600.0
"""The log of a worker that has ended is kept for this long after its last line."""

_MAX_LOGS = 100
"""Of the logs of ended workers, no more than these newest ones are kept."""


def log_name(worker: str) -> str:
    return f"worker-{worker}.log"


def clean_logs(folder: Path, live: Collection[str]) -> None:
    """Remove old logs of ended workers. `live`: workers that have not ended."""
    kept = {log_name(worker) for worker in live}
    found = [(_changed_at(path), path) for path in folder.glob(log_name("*")) if path.name not in kept]
    newest_first = sorted(found, reverse=True)
    oldest_kept = time.time() - _LOG_AGE_S
    with suppress(OSError):
        clean_outputs(folder)
    for number, (changed_at, path) in enumerate(newest_first):
        if number >= _MAX_LOGS or changed_at < oldest_kept:
            _remove_unlocked(path)


def remove_outputs(logs: Path, campaign: str, uid: str) -> None:
    """Remove the output of the attempts of a campaign that is here. `logs`: the folder of the home."""
    if is_campaign_name(campaign) and _UID.fullmatch(uid):
        with suppress(OSError):  # it goes after a while, see `clean_outputs`
            remove_tree(campaign_folder(str(logs), campaign, uid))


def clean_outputs(logs: Path) -> None:
    """Remove output of attempts of campaigns of which none has printed so much for long."""
    oldest_kept = time.time() - _LOG_AGE_S
    for folder in logs.iterdir():
        is_one = _OF_CAMPAIGN.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        if is_one and max(map(_changed_at, (folder, *folder.iterdir()))) < oldest_kept:
            with suppress(OSError):
                remove_tree(folder)


def tail(file: Path) -> str:
    """The end of a log; empty when it cannot be read."""
    try:
        return read_private(file)[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # Another driver has removed it.
        return 0.0


def _remove_unlocked(path: Path) -> None:
    """Remove a log unless its worker lives, and so holds the lock. Without file locks, it stays."""
    with suppress(OSError), open(path, "r+b", opener=open_private) as log_file:
        fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
