"""Sends frames of an attempt from other processes than the one that runs the function: forks, and programs
that got the attempt's token.

Each frame is one datagram to the worker's socket. So frames of several processes never mix, and none needs
the pipe.
"""

from __future__ import annotations

import errno
import socket

from queue_eval.runtime.pipe import encode_datagram

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WAIT_S = 1.0
"""How long to wait for room at the end of a process, for a worker that does not read."""

_PATIENCE_S = 0.05
"""How long to wait for room else, once: many systems keep no more than ten datagrams."""


_NO_ROOM = (errno.EAGAIN, errno.ENOBUFS)


class Mailbox:
    """Sends to the mailbox at `path`, for an attempt in `lane` (`attempts.Send`)."""

    def __init__(self, path: str, lane: str) -> None:
        self._path = path
        self._lane = lane
        self._socket: socket.socket | None = None
        self._is_full = False

    def __call__(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_WAIT_S if wait else 0 if self._is_full else _PATIENCE_S)
        try:
            self._socket.sendto(encode_datagram(self._lane, header, body), self._path)
        except OSError as error:
            if wait or not (isinstance(error, TimeoutError) or error.errno in _NO_ROOM):
                raise
            self._is_full = True
            return False
        self._is_full = False
        return True


def finish_at_exit(finish: Callable[[], None]) -> None:
    """Call `finish` when this process ends as Python ends, or as multiprocessing ends a process."""
    import atexit
    import sys

    atexit.register(finish)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, finish, exitpriority=0)
