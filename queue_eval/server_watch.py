"""The watcher: stops an embedded server that nobody needs any more.

A tiny process of its own, run by its path and without site-packages, so that it costs a few megabytes and
needs no driver to stay alive. It holds one connection for life, and so learns of the server's end, by
whatever cause, from the connection's. It imports the standard library only, and decides nothing for good:
after a quiet time it becomes `queue_eval.server.stop_if_idle`, which looks again under the lock of the home.

Quiet means: no other client is connected, none has come and gone, and no campaign has outstanding jobs. A
server whose folder was removed ends as soon as no other client is connected.
The bare-bones client `Wire` lives here, because nothing smaller can be imported by both sides.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

NAME = "queue_eval-watcher"  # of its connection

_LOOK_S, _ASK_S = 2.0, 15.0
"""How often it looks whether the folder is there, and asks the server, at most."""

SOCKET_PATH_LIMIT = 100  # bytes; the kernels' limits are 104 (macOS) and 108 (Linux)
HAS_SHORT_PATHS = hasattr(os, "O_PATH") and os.path.isdir("/proc/self/fd")  # noqa: PTH112
"""Whether this system reaches a file by an open folder."""

_STOP = """
import sys
sys.path.append(sys.argv[1])
from queue_eval.server import stop_if_idle
stop_if_idle(sys.argv[2], int(sys.argv[3]))
"""


_XUCRED_BYTES = 76
"""Size of what macOS and the BSDs tell of a peer."""


class ForeignPeerError(PermissionError):
    """Another account listens at a socket. Nothing was sent to it."""


class ReplyError(Exception):
    """The server answered with an error; the message begins with its code (`LOADING`, `WRONGPASS`)."""


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """A path to a unix socket that is short enough for the kernel, however long its own is."""
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
    """The account that listens at the other end of a unix socket, as the kernel noted it. Asks nobody.

    Raises OSError where the system does not tell.
    """
    if hasattr(socket, "SO_PEERCRED"):
        return int(struct.unpack("iII", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    # struct xucred: a version, the account, its groups. Level 0 is SOL_LOCAL, option 1 LOCAL_PEERCRED.
    return int(struct.unpack_from("II", line.getsockopt(0, 1, _XUCRED_BYTES))[1])


def check_peer(line: socket.socket, path: str) -> None:
    """Raise ForeignPeerError unless root or this account listens at `path`.

    To be called before anything is sent: whoever can make a file there can listen, and would be told the
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


def _open_unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


class HomeMark:
    """Tells when a home was removed, or another one is in its place. A folder out of reach is neither."""

    def __init__(self, home: str) -> None:
        self._record = f"{home}/server.json"
        self._data = f"{home}/data"
        self._mark = self._look()

    def is_gone(self) -> bool:
        try:
            return self._look() != self._mark
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):
            return False

    def _look(self) -> tuple[object, ...]:
        # The number of a folder is used again, but each home has a key of its own.
        status = os.stat(self._data)  # noqa: PTH116 - pathlib costs 1 MB
        with open(self._record, encoding="utf-8", opener=_open_unlinked) as file:
            return status.st_dev, status.st_ino, json.load(file).get("key")


def visits(wire: Wire) -> tuple[int, int]:
    """How many clients are connected now, `wire` included, and how many ever were."""
    info: dict[bytes, bytes] = {}
    for section in ("clients", "stats"):
        text = wire.call("INFO", section)
        assert isinstance(text, bytes)
        fields = (line.partition(b":") for line in text.split())
        info.update((name, value) for name, _, value in fields)
    return int(info[b"connected_clients"]), int(info[b"total_connections_received"])


def has_outstanding(wire: Wire) -> bool:
    """Whether any campaign has a job that has not finished."""
    names = wire.call("ZRANGE", "qe:campaigns", "0", "-1")
    assert isinstance(names, list)
    return any(_outstanding(wire, name.decode()) > 0 for name in names)


def _outstanding(wire: Wire, campaign: str) -> int:
    submitted = wire.call("HGET", f"qe:{{{campaign}}}:meta", "last_id")
    finished = wire.call("HLEN", f"qe:{{{campaign}}}:index")
    assert isinstance(finished, int)
    return int(submitted if isinstance(submitted, bytes) else 0) - finished


def _watch(wire: Wire, linger_s: float, home: HomeMark) -> int | None:
    """The number of visits seen once `linger_s` seconds were quiet, or None when the server has ended."""
    seen, quiet_since = visits(wire)[1], time.monotonic()
    asked_at = quiet_since
    while not wire.closed_within(min(linger_s / 4, _LOOK_S)):
        if home.is_gone():
            if visits(wire)[0] == 1:
                wire.call("SHUTDOWN")  # nobody can come any more
            continue
        if time.monotonic() - asked_at < min(linger_s / 4, _ASK_S):
            continue
        asked_at = time.monotonic()
        clients, total = visits(wire)
        if clients > 1 or total != seen or has_outstanding(wire):
            seen, quiet_since = total, time.monotonic()
        elif time.monotonic() - quiet_since >= linger_s:
            return seen
    return None


def main(home: str, linger_s: float) -> None:
    with open(f"{home}/server.json", encoding="utf-8", opener=_open_unlinked) as file:
        record = json.load(file)
    # No timeout: a server that is stopped by SIGSTOP or busy is not a server that has ended.
    with Wire(record["socket"], record["password"], timeout_s=None) as wire:
        wire.call("CLIENT", "SETNAME", NAME)
        # Connected before the starter is let go: who looks next finds a watcher. The home is marked by then,
        # too: it may be removed at once, and its server must not go on for ever.
        mark = HomeMark(home)
        if os.fork():
            os._exit(0)
        os.chdir("/")
        try:
            seen = _watch(wire, linger_s, mark)
        except OSError:
            return
    if seen is not None:
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
        os.execv(sys.executable, [sys.executable, "-P", "-c", _STOP, package, home, str(seen)])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
