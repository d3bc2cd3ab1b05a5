"""A minimal client for one unix socket, which checks what account listens there.

The watcher of an embedded server uses it. It lives as long as the server, so it imports only this and the
standard library.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

SOCKET_PATH_LIMIT = 100  # bytes; the kernels' limits are 104 (macOS) and 108 (Linux)
HAS_SHORT_PATHS = hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd")  # noqa: PTH112
"""Whether this system can reach a file through an open folder."""

_XUCRED_BYTES = 76
"""Size of the struct in which macOS and the BSDs describe a peer."""


class ForeignPeerError(PermissionError):
    """Another account listens at a socket. Nothing was sent to it."""


class ReplyError(Exception):
    """The server answered with an error; the message begins with its code (`LOADING`, `WRONGPASS`)."""


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """A path to the same unix socket that is short enough for the kernel, where the system has one."""
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT or not HAS_SHORT_PATHS:
        yield path
        return
    folder, name = os.path.split(path)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)


def peer_uid(line: socket.socket) -> int:
    """The account (uid) that listens at the other end of a unix socket, by the kernel. Sends nothing.

    Raises OSError where the system does not know it.
    """
    if hasattr(socket, "SO_PEERCRED"):
        return int(struct.unpack("iII", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    # struct xucred: a version, the account, its groups. Level 0 is SOL_LOCAL, option 1 LOCAL_PEERCRED.
    return int(struct.unpack_from("II", line.getsockopt(0, 1, _XUCRED_BYTES))[1])


def check_peer(line: socket.socket, path: str) -> None:
    """Raise ForeignPeerError unless root or this account listens at `path`.

    Call it before anything is sent. Any account that can make files there can listen, and would get the
    password.
    """
    uid = peer_uid(line)
    if uid not in (0, os.geteuid()):
        raise ForeignPeerError(f"another account (uid {uid}) listens at {path}; nothing was sent to it")


class Wire:
    """One connection to a unix socket, for one thread: sends a command, waits for its reply (RESP2).

    Every wait lasts at most `timeout_s` seconds (None: for ever). Raises OSError when the connection
    cannot be made, breaks or is too slow, ForeignPeerError when it leads to another account, and ReplyError
    when the server says no.
    """

    def __init__(self, path: str, password: str, timeout_s: float | None = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout_s)
            with short_path(path) as short:
                self._socket.connect(short)
            check_peer(self._socket, path)
            self._replies = self._socket.makefile("rb")
            self.call("AUTH", password)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "_replies"):
            self._replies.close()
        self._socket.close()

    def call(self, *words: str) -> object:
        """The reply to one command: int, bytes, None, or a list of these."""
        encoded = [word.encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        # A server whose connections are all taken sends an error and closes at once, maybe before this is
        # sent. The error can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(b"".join(parts))
        return self._reply()

    def closed_within(self, wait_s: float) -> bool:
        """Whether the server closes the connection in the next `wait_s` seconds; waits that long if not."""
        before = self._socket.gettimeout()
        self._socket.settimeout(wait_s)
        try:
            return not self._socket.recv(1)
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(before)

    def _reply(self) -> object:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise ReplyError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._replies.read(size + 2)[:-2]
        return rest
