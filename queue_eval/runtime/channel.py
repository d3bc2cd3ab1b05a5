"""A connection from an attempt that runs elsewhere to the process that has forwarded it.

::

    attempt, forks, programs with its token ──secret, hello, frames of `pipe`, sync──▶ forwarder
                                            ◀──lines: the notice to it, "got"────────

Each process of the attempt opens one when it first tells or asks something. An attempt that does neither
costs nothing. Where nobody can be reached, what is told is dropped, and the output says so: a training must
not fail because of a firewall.
"""

from __future__ import annotations

import os
import socket
import sys
from _thread import allocate_lock
from select import POLLIN, POLLOUT, poll
from time import monotonic

from queue_eval.runtime.notices import DRAIN, STOP
from queue_eval.runtime.pipe import frame

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

HELLO = "hello"
"""The kind of the first frame: ["hello", id, attempt]. The notice to it is the answer."""

SYNC = "sync"
"""The kind of a frame that is answered by GOT when all before it has reached the worker's pipe."""

GOT = b"got"
NO_NOTICE = b"none"

_CONNECT_S = 5.0
_ANSWER_S = 5.0
"""How long to wait at the end of the attempt, for room and for GOT."""
_GREETING_S = 1.0
"""How long the first look waits for the notice, which may be older than the attempt."""
_BUFFER_BYTES = 1 << 18
"""Room for several frames: a socket that is ready then takes one whole."""


class Channel:
    """Sends frames of one attempt (`attempts.Send`), and looks up the notice to it.

    Thread-safe. After a fork, the fork opens a connection of its own. A signal handler may call it at any
    moment: so only the end of an attempt waits for the lock.
    """

    def __init__(
        self, address: Sequence[Any] | None, job: int, attempt: int, *, is_quiet: bool = False
    ) -> None:  # fmt: skip
        """`address`: host, port and secret; None: nobody can be reached. `is_quiet`: the output does not say
        so."""
        self._address = address
        self._is_quiet = is_quiet
        self._token = (job, attempt)
        self._begin(0)

    def _begin(self, pid: int) -> None:
        self._lock = allocate_lock()
        self._pid = pid
        self._socket: socket.socket | None = None
        self._is_open = False
        self._is_unreachable = False
        self._give_up_at = 0.0
        self._was_greeted = False
        self._heard = b""
        self._word: str | None = None
        self._is_synced = False

    def __call__(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:
        self._notice_fork()
        if not self._lock.acquire(timeout=_ANSWER_S if wait else 0):
            return False
        try:
            if self._is_unreachable:
                return True
            wait_s = _ANSWER_S if wait else 0.0
            if not self._connect(wait_s):
                return self._is_unreachable
            return self._send(frame(header, body), wait_s)
        finally:
            self._lock.release()

    def look(self) -> str | None:
        """The notice to the attempt: "stop", "drain" or None."""
        self._notice_fork()
        if self._lock.acquire(blocking=False):
            try:
                wait_s = 0.0 if self._was_greeted else _GREETING_S
                if not self._is_unreachable and self._connect(wait_s):
                    self._was_greeted = True
                    self._hear(wait_s)
            except OSError:  # the worker is gone: what tells something tells that
                pass
            finally:
                self._lock.release()
        return self._word

    def close(self) -> None:
        """Close the connection, without waiting for anything."""
        if self._pid == os.getpid():
            with self._lock:
                self._close()

    def finish(self) -> None:
        """Wait until all that was sent has reached the worker's pipe, and close the connection."""
        if self._pid != os.getpid() or not self._lock.acquire(timeout=_ANSWER_S):
            return
        try:
            if self._is_open and self._socket and self._send(frame((SYNC,)), _ANSWER_S):
                deadline = monotonic() + _ANSWER_S
                while not self._is_synced and (left_s := deadline - monotonic()) > 0:
                    self._hear(left_s)
        except OSError:
            pass
        finally:
            self._close()
            self._lock.release()

    # ------------------------------------------------------------------------------------------------------

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._close()  # only this process's copy of it
            self._begin(os.getpid())

    def _connect(self, wait_s: float) -> bool:
        """Connect, without waiting for longer. Returns whether there is a connection. Raises OSError when
        there was one."""
        if self._is_open:
            if self._socket is None:
                raise ConnectionError("the connection to the forwarder is lost")
            return True
        if self._socket is None:
            if self._address is None:
                self._miss("Ray Client and some networks have no way back")
                return False
            host, port, _ = self._address
            self._give_up_at = monotonic() + _CONNECT_S
            self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect_ex((host, port))
        if not self._is_ready(POLLOUT, wait_s):
            if wait_s or monotonic() > self._give_up_at:
                self._miss("no answer")
            return False
        if number := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._miss(os.strerror(number))
            return False
        assert self._address is not None
        self._is_open = True
        return self._send(str(self._address[2]).encode() + frame((HELLO, *self._token)), _ANSWER_S)

    def _miss(self, why: str) -> None:
        self._is_unreachable = True
        self._close()
        if self._is_quiet:
            return
        place = "its worker" if self._address is None else "{}:{}".format(*self._address)
        sys.stderr.write(
            f"queue_eval: this job cannot reach {place} ({why}): what it reports is dropped, and it does not "
            "see that it is to stop\n"
        )

    def _send(self, data: bytes, wait_s: float) -> bool:
        """Send all or nothing."""
        assert self._socket is not None
        if not self._is_ready(POLLOUT, wait_s):
            return False
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return False
        except OSError:
            self._close()
            raise
        if sent < len(data):
            self._send_rest(data[sent:])
        return True

    def _send_rest(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            while data:
                if not self._is_ready(POLLOUT, _ANSWER_S):
                    raise TimeoutError("the forwarder does not read")
                data = data[self._socket.send(data) :]
        except BaseException:  # also what a handler of user code raises: half a frame is on its way
            self._close()
            raise

    def _hear(self, wait_s: float) -> None:
        """Take in what has been sent here, and wait for the first of it."""
        assert self._socket is not None
        if not self._is_ready(POLLIN, wait_s):
            return
        data = self._socket.recv(4096)
        if not data:
            self._close()
            raise ConnectionError("the forwarder has closed the connection")
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if line == GOT:
                self._is_synced = True
            elif line.decode(errors="replace") in (STOP, DRAIN) and self._word != STOP:
                self._word = line.decode()

    def _is_ready(self, event: int, wait_s: float) -> bool:
        assert self._socket is not None
        watched = poll()
        watched.register(self._socket, event)
        return bool(watched.poll(wait_s * 1000))

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
