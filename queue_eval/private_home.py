"""A home belongs to one account, and nobody else may look into it or change it.

=========================================  ================================================================
a folder that                              is
=========================================  ================================================================
is not there                               made, with mode 0700 and a `.gitignore`
belongs to another account                 refused: also for root, whom its owner could lead anywhere
others may write to                        refused: nobody knows what they have put there
others may look into                       closed (0700), and the log says so
the same, with other things in it          refused: to close it could lock out who needs them
=========================================  ================================================================
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from shlex import quote

from queue_eval.errors import UsageError
from queue_eval.foreign_text import plain

log = plain(logging.getLogger(__name__))

_ENTRIES = (
    ".gitignore", "access.json", "worker-access.json", "server.json", "server.conf", "server.lock",
    "server.alive", "server.pid", "server.sock", "launch.key", "data", "logs", "spool", "tls",
)  # fmt: skip
"""What we make there."""


def make_home(folder: Path) -> None:
    """Make the folder of a home; one that exists is closed to others. Raises UsageError if it is refused."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        close_home(folder)
    # The default home lies in the user's project: its secrets must not be committed by `git add .`.
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


def close_home(folder: Path) -> None:
    """Close a folder that is or becomes a home to others; raises UsageError for one that is refused."""
    check_owner(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name another --home")
    mode = folder.stat().st_mode & 0o777
    if mode & 0o022:
        raise UsageError(
            f"{folder} can be changed by others (mode {mode:o}); name a new folder as --home, or see that "
            f"all in it is yours, then close it with: chmod 700 {quote(str(folder))}"
        )
    if not mode & 0o055:
        return
    if not all(_is_ours(path.name) for path in folder.iterdir()):
        raise UsageError(
            f"others can look into {folder} (mode {mode:o}), which holds more than a home; name a folder of "
            f"its own as --home, or close it with: chmod 700 {quote(str(folder))}"
        )
    folder.chmod(0o700)
    log.warning("others could look into %s (mode %o); it is closed now (mode 700)", folder, mode)


def check_owner(folder: Path) -> None:
    """Raise UsageError if this folder belongs to another account."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise UsageError(
            f"{folder} belongs to another account (uid {owner}); name a folder of your own as --home"
        )


def _is_ours(entry: str) -> bool:
    # Files that are just being written have names like `.access.json.x1`.
    return entry in _ENTRIES or any(entry.startswith(f".{name}.") for name in _ENTRIES)
