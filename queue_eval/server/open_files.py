"""The account and the open files of a process, by which the server of a home is recognised.

Anybody can copy a command line, and anybody who reads a file has it open, too. Only a server has
`server.alive` open for writing: it inherits that from its starter.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from queue_eval.server.home import ALIVE_FILE

SERVER_PROGRAMS = ("valkey", "redis")
"""How the names of a server's programs begin."""

_SHOWS_FILES = Path("/proc/self/fdinfo").is_dir()
"""Whether this system shows which files a process has open."""


def is_own(pid: int) -> bool:
    """Whether a process belongs to this account. Others are never our servers, and we must not end them."""
    try:
        return psutil.Process(pid).uids().effective == os.geteuid()
    except psutil.Error:
        return False


def has_to_write(pid: int, path: Path | None = None) -> bool:
    """Whether a process has this very file open for writing. Without `path`: the `server.alive` of any home,
    even if it was removed.

    If the system does not show open files: whether its name is that of a server program.
    """
    handles = _handles(pid)
    if handles is None:
        with suppress(psutil.Error):
            return psutil.Process(pid).name().startswith(SERVER_PROGRAMS)
        return False
    for handle in handles:
        with suppress(OSError, ValueError, IndexError):
            if path is None:
                is_it = str(handle.readlink()).removesuffix(" (deleted)").endswith("/" + ALIVE_FILE)
            else:
                is_it = handle.samefile(path)
            if is_it:
                words = Path(f"/proc/{pid}/fdinfo/{handle.name}").read_text().split()
                if int(words[words.index("flags:") + 1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has this very file open, as far as the system shows."""
    for handle in _handles(pid) or ():
        with suppress(OSError):
            if handle.samefile(path):
                return True
    return False


def _handles(pid: int) -> list[Path] | None:
    """The open files of a process; None if the system does not show them, or needs more capabilities."""
    try:
        # The inherited handle has a low number, so sort: a server may have thousands of connections.
        return sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda entry: int(entry.name))
    except PermissionError:
        return None
    except OSError:
        return [] if _SHOWS_FILES else None
