"""The whole output of one attempt in a file, where it is more than what is kept of it on the server.

The file is begun when the attempt has printed more than that, with all that it has printed so far. It stays
when the attempt has ended, also when it was lost with its worker.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from queue_eval.model.attempt import Token
from queue_eval.runtime.checkpoints import campaign_folder

MAX_FILE_BYTES = 64 * 2**20
"""What an attempt prints beyond this is not written."""

_MAX_FILES = 100
_MAX_AGE_S = 14 * 24 * 3600.0
"""Of one campaign no more files than these newest ones are kept, and none for longer: as of workers' logs."""

_FULL = b"\n[queue_eval: the attempt has printed more than 64 MiB; the rest is not written here]\n"


class WholeOutput:
    """Of one attempt. What the disk does not take is left out, without a word: the job must go on."""

    def __init__(self, folder: Path, token: Token, printed: bytes) -> None:
        """`folder`: of the campaign, made where it is missing; `printed`: what came so far.

        Raises OSError when the file cannot be made.
        """
        self.path = folder / f"{token[0]}-{token[1]}.log"
        for missing in (folder.parent.parent, folder.parent, folder):  # a home is for its owner only
            missing.mkdir(mode=0o700, parents=True, exist_ok=True)
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _clean(inside)
            # An older file, of another life of this attempt number, goes: it may be a link.
            with suppress(FileNotFoundError):
                os.unlink(self.path.name, dir_fd=inside)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.path.name, flags, 0o600, dir_fd=inside)
        finally:
            os.close(inside)
        self._room = MAX_FILE_BYTES
        self.write(printed)

    def write(self, data: bytes) -> None:
        if self._fd < 0:
            return
        is_full = len(data) > self._room
        data = data[: self._room] + _FULL if is_full else data
        self._room -= len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            is_full = True
        if is_full:
            self.close()

    def note(self) -> str:
        """Where the file is, to be read beside what is kept."""
        return f"the whole output is in {self.path} on {socket.gethostname()}"

    def close(self) -> None:
        """May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def output_folder(inside: dict[str, Any] | None) -> Path | None:
    """The folder of the files of a campaign. `inside`: of its setup; None where there is no home."""
    base = (inside or {}).get("logs")
    if inside is None or base is None:
        return None
    return campaign_folder(base, inside["campaign"], inside["uid"])


def _clean(folder: int) -> None:
    """Remove old files of the campaign, so that there is room for one more. `folder`: its descriptor."""
    found: list[tuple[float, str]] = []
    for entry in os.scandir(folder):
        if entry.name.endswith(".log"):
            with suppress(OSError):
                found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
    oldest_kept = time.time() - _MAX_AGE_S
    for number, (changed_at, name) in enumerate(sorted(found, reverse=True)):
        if number >= _MAX_FILES - 1 or changed_at < oldest_kept:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
