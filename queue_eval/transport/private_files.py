"""Files of a home are opened as they are: never through a symbolic link, nor for others to read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def open_private(path: str, flags: int) -> int:
    """An opener for `open`: follows no symbolic link (OSError, ELOOP), waits for no pipe; new files have mode
    0600."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def read_private(path: Path) -> bytes:
    """What is in a file of a home. Raises OSError, also for a symbolic link."""
    with open(path, "rb", opener=open_private) as file:
        return file.read()


def remove_socket(path: Path) -> None:
    """Remove a socket; whatever else has its name stays."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink(missing_ok=True)
