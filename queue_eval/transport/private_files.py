"""Opens files of a home: never through a symbolic link, and new ones are for their owner only."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def open_private(path: str, flags: int) -> int:
    """An opener for `open`. Raises OSError (ELOOP) for a symbolic link, and does not wait for a pipe's other
    end. New files have mode 0600."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def read_private(path: Path) -> bytes:
    """The content of a file of a home. Raises OSError, also for a symbolic link."""
    with open(path, "rb", opener=open_private) as file:
        return file.read()


def remove_socket(path: Path) -> None:
    """Remove a socket. Anything else at this path stays."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink(missing_ok=True)
