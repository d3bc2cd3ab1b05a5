"""Where attempts in Ray's processes connect to, to tell of themselves (`queue_eval.runtime.channel`).

A port on the address by which Ray knows this node: Ray's own processes connect to this one, too. Nobody
listens to who does not begin with the secret, which Ray's tasks bring with them.
"""

from __future__ import annotations

import hmac
import secrets
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress

from queue_eval.model.attempt import Token
from queue_eval.runtime.channel import GOT, HELLO, NO_NOTICE, SYNC
from queue_eval.runtime.forwarder import Outlet, run_guarded
from queue_eval.runtime.notices import STOP
from queue_eval.runtime.pipe import MAX_DATAGRAM_BYTES, FrameBuffer, frame
from workers.executors.signs import token_of

_SECRET_BYTES = 32
_READ_BYTES = 1 << 16
_MAX_STRANGERS = 1000
"""Connections that have not yet shown the secret. More are refused."""
_HELLO_S = 10.0


class _Connection:
    """One process of an attempt. Raises ValueError, or any error of a parser, for what is none."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.begun_at = time.monotonic()
        self.token: Token | None = None
        self._secret = b""
        self._is_known = False
        self._frames = FrameBuffer(MAX_DATAGRAM_BYTES)

    def take(self, data: bytes, secret: bytes) -> list[tuple[list[object], bytes]]:
        """The frames that are complete now."""
        if not self._is_known:
            missing = len(secret) - len(self._secret)
            self._secret += data[:missing]
            data = data[missing:]
            if not hmac.compare_digest(self._secret, secret[: len(self._secret)]):
                raise ValueError("not the secret")
            self._is_known = len(self._secret) == len(secret)
        return self._frames.feed(data) if data else []


class Channels:
    """Takes in what attempts tell, and tells them what they are to see. Thread-safe."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._secret = secrets.token_hex(_SECRET_BYTES).encode()
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._words: dict[Token, str] = {}
        self._by_token: dict[Token, set[_Connection]] = {}
        self._strangers: dict[_Connection, None] = {}

    def listen(self, host: str | None) -> tuple[str, int, str] | None:
        """Begin to listen at `host`. Returns host, port and secret; None where it cannot."""
        if host is None:
            return None
        try:
            listener = socket.create_server(
                (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
            )
        except OSError as error:
            sys.stderr.write(f"jobs cannot report, since there is no listening at {host}: {error}\n")
            return None
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        run_guarded(self._serve_channels)
        return host, listener.getsockname()[1], self._secret.decode()

    def notify(self, tokens: list[Token], word: str) -> None:
        """Let these attempts see `word`. Whoever has seen "stop" sees it to the end."""
        with self._lock:
            for token in tokens:
                if self._words.get(token) != STOP:
                    self._words[token] = word
                    for connection in self._by_token.get(token, ()):
                        _answer(connection, word.encode())

    def forget(self, token: Token) -> None:
        """The attempt has ended."""
        with self._lock:
            self._words.pop(token, None)

    # In a thread of its own -------------------------------------------------------------------------------

    def _serve_channels(self) -> None:
        while True:
            synced: list[_Connection] = []
            for key, _ in self._selector.select(_HELLO_S if self._strangers else None):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data, synced)
            # After all that was there: forks have told before the attempt ends.
            for connection in synced:
                _answer(connection, GOT)
            self._drop_strangers()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connected, _ = self._listener.accept()
        except OSError:  # it is gone again, or there are no more descriptors
            time.sleep(0.01)
            return
        if len(self._strangers) >= _MAX_STRANGERS:
            connected.close()
            return
        connected.setblocking(False)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(connected)
        self._strangers[connection] = None
        self._selector.register(connected, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection, synced: list[_Connection]) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
            frames = connection.take(data, self._secret)
            told = b"".join([self._take(connection, header, body, synced) for header, body in frames])
        except BlockingIOError:
            return
        except Exception:  # an end, or anything that user code may have sent
            data = told = b""
        if told:
            self._outlet.tell(told)
        if not data:
            self._drop(connection)

    def _take(
        self, connection: _Connection, header: list[object], body: bytes, synced: list[_Connection]
    ) -> bytes:
        """A frame for the worker; b"" for one that was for us."""
        kind = header[0]
        if kind == SYNC:
            synced.append(connection)
            return b""
        job, attempt = header[1:3]
        if not (isinstance(job, int) and isinstance(attempt, int)):
            raise ValueError("not an attempt")
        if kind == HELLO and connection.token is None:
            self._greet(connection, (job, attempt))
            return b""
        if connection.token != token_of(header, body):
            raise ValueError("not a frame of this attempt")
        return frame(header, body)

    def _greet(self, connection: _Connection, token: Token) -> None:
        self._strangers.pop(connection, None)
        with self._lock:
            connection.token = token
            self._by_token.setdefault(token, set()).add(connection)
            _answer(connection, self._words.get(token, "").encode() or NO_NOTICE)

    def _drop_strangers(self) -> None:
        late = time.monotonic() - _HELLO_S
        for connection in [one for one in self._strangers if one.begun_at < late]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._strangers.pop(connection, None)
        self._selector.unregister(connection.socket)
        with self._lock:
            if connection.token is not None:
                others = self._by_token.get(connection.token, set())
                others.discard(connection)
                if not others:
                    self._by_token.pop(connection.token, None)
            connection.socket.close()


def _answer(connection: _Connection, line: bytes) -> None:
    # Who does not read his few lines has closed, or will be told nothing more.
    with suppress(OSError):
        connection.socket.send(line + b"\n")
