"""Messages between a worker and its running attempts, beside the pipes of their processes.

::

    worker ──▶ a file with one word ("stop", "drain")  ──▶ any process of the attempt
    worker ◀── one datagram for each frame ◀── processes without a pipe: forks, and those with a token

An attempt looks for its file whenever the run function asks. So the worker never waits for a process that
does not listen, and every process of the attempt sees the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from queue_eval.model.attempt import Token
from queue_eval.runtime.notices import STOP, notice_file
from queue_eval.runtime.pipe import parse_frame

_MAX_DATAGRAM = 1 << 16
_MAX_SOCKET_PATH = 90
"""The address of a unix socket has room for about a hundred bytes."""


class Mailroom:
    """A private folder of this worker. Assumes: one thread at a time, but for `close`."""

    def __init__(self) -> None:
        self.folder = Path(_private_folder())
        self.mailbox = self.folder / "mailbox"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.mailbox))
        self._socket.setblocking(False)
        self._told: dict[tuple[str, Token], str] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, lane_id: str, token: Token, word: str) -> None:
        """Let the attempt see `word`. Whoever has seen "stop" sees it to the end."""
        if self._told.get((lane_id, token)) in (word, STOP):
            return
        path = self._notice(lane_id, token)
        written = path.with_name(f"{path.name}.new")
        # Renamed, so that nobody reads half a word. On a full disk the attempt does not learn of it.
        with contextlib.suppress(OSError):
            written.write_text(word)
            written.rename(path)
            self._told[lane_id, token] = word

    def forget(self, lane_id: str, token: Token) -> None:
        """The attempt has ended."""
        if self._told.pop((lane_id, token), None):
            self._notice(lane_id, token).unlink(missing_ok=True)

    def receive(self) -> Iterator[tuple[str, list[Any], bytes]]:
        """What has come: the lane, and the frame without it. What is no frame of ours is dropped."""
        while True:
            try:
                data = self._socket.recv(_MAX_DATAGRAM)
            except OSError:  # nothing more, or closed
                return
            with contextlib.suppress(ValueError):
                header, body = parse_frame(data)
                kind, lane_id, *rest = header
                yield str(lane_id), [kind, *rest], body

    def close(self) -> None:
        self._socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _notice(self, lane_id: str, token: Token) -> Path:
        return Path(notice_file(str(self.folder), lane_id, *token))


def _private_folder() -> str:
    usual = tempfile.mkdtemp(prefix="qe-")
    if len(os.fsencode(usual)) < _MAX_SOCKET_PATH:
        return usual
    os.rmdir(usual)  # noqa: PTH106
    return tempfile.mkdtemp(prefix="qe-", dir="/tmp")
