"""Messages between a worker and its running attempts, beside the pipes of their processes.

::

    worker ──▶ a file with one word ("stop", "drain")  ──▶ any process of the attempt
    worker ◀── one datagram for each frame ◀── processes without a pipe: forks, and those with a token

An attempt looks for its file whenever the run function asks. So the worker never waits for a process that
does not listen, and every process of the attempt sees the same.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from queue_eval.model.attempt import Token
from queue_eval.runtime.notices import STOP, notice_file
from queue_eval.runtime.pipe import parse_frame
from queue_eval.runtime.temporary import MAILBOX, remove_abandoned, temporary_name

_MAX_DATAGRAM = 1 << 16


class Mailroom:
    """A private folder of this worker. Assumes: one thread receives, and one thread tells, at a time."""

    def __init__(self, folder: str | None = None) -> None:
        """`folder`: the one that `open` makes; None: one of a new name, where temporary files lie."""
        self.folder = Path(temporary_name() if folder is None else folder)
        self.mailbox = self.folder / MAILBOX
        self._socket: socket.socket | None = None
        self._told: dict[tuple[str, Token], str] = {}

    def open(self) -> Mailroom:
        """Make the folder, which must not exist, and the mailbox. Raises OSError.

        Removes those of other owners that were killed, who could not.
        """
        self.folder.mkdir(0o700)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.mailbox))
        self._socket.setblocking(False)
        remove_abandoned(self.folder.parent)
        return self

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def fileno(self) -> int:
        assert self._socket is not None
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

    @property
    def has_told(self) -> bool:
        """Whether any attempt sees anything."""
        return bool(self._told)

    def word_for(self, lane_id: str, token: Token) -> str | None:
        """What the attempt sees; None: nothing."""
        return self._told.get((lane_id, token))

    def forget(self, lane_id: str, token: Token) -> None:
        """The attempt has ended."""
        if self._told.pop((lane_id, token), None):
            self._notice(lane_id, token).unlink(missing_ok=True)

    def receive(self) -> Iterator[tuple[str, list[Any], bytes]]:
        """What has come: the lane, and the frame without it. What is no frame of ours is dropped."""
        while self._socket is not None:
            try:
                data = self._socket.recv(_MAX_DATAGRAM)
            except OSError:  # nothing more, or closed
                return
            with contextlib.suppress(ValueError):
                header, body = parse_frame(data)
                kind, lane_id, *rest = header
                yield str(lane_id), [kind, *rest], body

    def close(self) -> None:
        """Remove all of it. May be called twice, and without `open`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            shutil.rmtree(self.folder, ignore_errors=True)

    def _notice(self, lane_id: str, token: Token) -> Path:
        return Path(notice_file(str(self.folder), lane_id, *token))
