"""Whose a process is, and which files it has open: by these the server of a home is known, not by its words.

A command line is anybody's to copy, and whoever reads a file has it open, too. To have `server.alive` open to
write it is what a server inherits from its starter, and nobody else does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from queue_eval.server.home import ALIVE_FILE

SERVER_PROGRAMS = ("valkey", "redis")
"""How the names of a server's programs begin."""

_TELLS_FILES = Path("/proc/self/fdinfo").is_dir()
"""Whether this system tells which files a process has open."""


def is_own(pid: int) -> bool:
    """Whether a process belongs to this account: others' are none of our servers, and not ours to end."""
    try:
        return psutil.Process(pid).uids().effective == os.geteuid()
    except psutil.Error:
        return False


def has_to_write(pid: int, path: Path | None = None) -> bool:
    """Whether a process has this very file open to write it; without `path`, a `server.alive` of any home,
    also of one that was removed.

    Where the system does not tell: whether it is called like a server's program.
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
    """Whether a process has this very file open, as far as the system tells."""
    for handle in _handles(pid) or ():
        with suppress(OSError):
            if handle.samefile(path):
                return True
    return False


def _handles(pid: int) -> list[Path] | None:
    """The open files of a process; None where the system does not tell, or not us (fewer capabilities)."""
    try:
        # The handle was inherited, so it comes early: a server may have thousands of connections.
        return sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda entry: int(entry.name))
    except PermissionError:
        return None
    except OSError:
        return [] if _TELLS_FILES else None
