"""Simulates a bad network between clients and one server: a TCP proxy that refuses, stalls and loses replies.

::

    client ──▶ listener ──▶ line: up ───▶ server
           ◀──────────────  line: down ◀──

One thread moves bytes between the two ends of each line. It knows only this of the protocol: when a client
sends after a reply, a new exchange begins; the bytes that come back are its reply.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

Target = str | tuple[str, int]
"""The path of a unix socket, or host and port."""

_CHUNK_BYTES = 65536
_MAX_HELD_BYTES = 1 << 20
"""One direction of a line keeps at most so much. The rest stays with the sender."""

_CONNECT_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_HANDSHAKE = (b"AUTH", b"HELLO", b"CLIENT", b"SELECT")


class FaultProxy:
    """A context manager that listens on loopback, passes all bytes on to `target`, and fails on demand.

    Guarantees: when a call returns, its fault is active, and the fault of the call before has ended. Bytes
    that one end sends arrive whole and in order or, after a reset, not at all. After `close` neither thread
    nor socket is left. Assumes: clients await a reply before they send again (a pipeline counts as one
    command).
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        # Bound but not listening: it keeps the port while connections are refused.
        self._reservation = _bound(0)
        self.address: tuple[str, int] = self._reservation.getsockname()
        self._listener: socket.socket | None = None
        self._lines: set[_Line] = set()
        self._resets_new = False
        self._is_blackhole = False
        self._delay_s = 0.0
        self._loss: _ReplyLoss | None = None
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._bell_read, self._bell = socket.socketpair()
        self._bell_read.setblocking(False)
        self._selector.register(self._bell_read, selectors.EVENT_READ, self._run_calls)
        self._listen()
        self._thread = threading.Thread(target=self._work, name="fault-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def heal(self) -> None:
        """Pass everything on again. Bytes that were held back arrive late."""
        self._call(self._heal)

    def refuse(self) -> None:
        """Refuse new connections, and reset the open ones."""

        def refuse() -> None:
            self._heal()
            self._stop_listening()
            self._reset_all()

        self._call(refuse)

    def reset(self) -> None:
        """Reset all open connections, and new ones as soon as they are made."""

        def reset() -> None:
            self._heal()
            self._resets_new = True
            self._reset_all()

        self._call(reset)

    def blackhole(self) -> None:
        """Accept and keep connections, but pass on no bytes and end no connection."""

        def swallow() -> None:
            self._heal()
            self._is_blackhole = True

        self._call(swallow)

    def delay(self, seconds: float) -> None:
        """Delay all bytes by `seconds`, both ways."""

        def delay() -> None:
            self._heal()
            self._delay_s = seconds

        self._call(delay)

    def drop_reply(self, after: int = 0, *, times: int | None = 1, of: bytes = b"") -> None:
        """Let commands run, but lose their replies and reset their connections.

        This concerns exchanges that begin from now on, and whose command contains the bytes `of`. The first
        `after` of them pass, the next `times` (None: all) lose their reply. Handshakes always pass.
        """
        self._arm(_ReplyLoss(after, times, of, 0))

    def cut_reply(self, bytes: int, after: int = 0, *, times: int | None = 1, of: bytes = b"") -> None:  # noqa: A002 - of the interface
        """As `drop_reply`, but up to so many bytes of the reply arrive, though never the whole reply."""
        self._arm(_ReplyLoss(after, times, of, bytes))

    def close(self) -> None:
        """Reset all open connections and end. May be called twice."""
        if self._thread.is_alive():
            with suppress(RuntimeError):
                self._call(self._stop)
            self._thread.join()

    # ----------------------------------------------------------------------------------------------------

    def _arm(self, loss: _ReplyLoss) -> None:
        def arm() -> None:
            self._heal()
            self._loss = loss

        self._call(arm)

    def _call(self, call: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._calls.append((call, done))
        try:
            self._bell.send(b"!")
        except OSError:
            raise RuntimeError("the proxy is closed") from None
        done.result()

    # In the proxy's thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_closing:
                for key, _ in self._selector.select(self._pause()):
                    key.data()
                for line in list(self._lines):
                    if not self._stalls(line) and line.is_due():
                        self._move(line)
        finally:
            self._reset_all()
            self._stop_listening()
            self._selector.close()
            for end in (self._reservation, self._bell_read, self._bell):
                end.close()
            while self._calls:
                self._calls.popleft()[1].set_exception(RuntimeError("the proxy is closed"))

    def _run_calls(self) -> None:
        with suppress(BlockingIOError):
            self._bell_read.recv(4096)
        while self._calls:
            call, done = self._calls.popleft()
            try:
                call()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _pause(self) -> float | None:
        if self._is_blackhole:
            return None
        due = min((line.due_at() for line in self._lines if not self._stalls(line)), default=float("inf"))
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _stop(self) -> None:
        self._is_closing = True

    def _heal(self) -> None:
        self._resets_new = self._is_blackhole = False
        self._delay_s = 0.0
        self._loss = None
        if self._listener is None:
            self._listen()
        for line in list(self._lines):
            line.hurry()
            self._move(line)

    def _listen(self) -> None:
        self._listener = _bound(self.address[1])
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        if self._listener is None:  # closed by a call in the same turn of the selector
            return
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = _Line(client)
        self._lines.add(line)
        if self._resets_new:
            self._reset(line)
        else:
            self._move(line)

    def _move(self, line: _Line) -> None:
        """Read and write as much as possible, then wait for more."""
        if line not in self._lines:
            return
        try:
            if not self._stalls(line):
                if line.server is None:
                    line.server = _connected(self._target)
                while self._take(line) or self._give(line):
                    pass
        except OSError:  # the target does not listen, or one end was reset
            self._reset(line)
            return
        if line.is_over:
            self._drop(line)
        elif line in self._lines:
            self._watch(line)

    def _stalls(self, _line: _Line) -> bool:
        """Whether nothing is passed on for now."""
        return self._is_blackhole

    def _take(self, line: _Line) -> bool:
        """Read from both ends. Returns whether anything came."""
        came = False
        for half, source in ((line.up, line.client), (line.down, line.server)):
            if source is None or half.has_ended or half.held >= _MAX_HELD_BYTES:
                continue
            try:
                data = source.recv(_CHUNK_BYTES)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            half.add(data, time.monotonic() + self._delay_s)
            came = True
        return came

    def _give(self, line: _Line) -> bool:
        """Write the bytes that are due to both ends. Returns whether anything was written."""
        went = False
        for half, sink in ((line.up, line.server), (line.down, line.client)):
            while sink is not None and line in self._lines and half.due_at <= time.monotonic():
                data = half.chunks[0][1]
                if not data:
                    half.end(sink)
                    went = True
                    break
                if half is line.up and not line.is_asking:
                    line.is_asking = True
                    line.loss = self._loss if self._loss and self._loss.takes(data) else None
                elif half is line.down:
                    line.is_asking = False
                    if line.loss is not None and line.loss is self._loss:
                        self._hit(line, sink, data, line.loss)
                        return False
                try:
                    half.sent(sink.send(data))
                except BlockingIOError:
                    half.is_stuck = True
                    break
                except ConnectionError:
                    if half is line.up:
                        raise
                    # The client is gone. The bytes that it sent before must still reach the server.
                    half.discard()
                went = True
        return went

    def _hit(self, line: _Line, client: socket.socket, reply: bytes, loss: _ReplyLoss) -> None:
        part = reply[: min(loss.bytes, len(reply) - 1)]
        if part:
            with suppress(OSError):
                client.send(part)
            # End the connection in order: a reset would overtake bytes that the client has not read yet.
            self._drop(line)
        else:
            self._reset(line)

    def _watch(self, line: _Line) -> None:
        for end, source, sink in ((line.client, line.up, line.down), (line.server, line.down, line.up)):
            if end is None:
                continue
            events = 0
            if not self._stalls(line):
                if not source.has_ended and source.held < _MAX_HELD_BYTES:
                    events |= selectors.EVENT_READ
                if sink.is_stuck:
                    events |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(end)
            if known is None and events:
                self._selector.register(end, events, lambda: self._resume(line))
            elif known is not None and not events:
                self._selector.unregister(end)
            elif known is not None and known.events != events:
                self._selector.modify(end, events, known.data)

    def _resume(self, line: _Line) -> None:
        line.up.is_stuck = line.down.is_stuck = False
        self._move(line)

    def _reset_all(self) -> None:
        for line in list(self._lines):
            self._reset(line)

    def _reset(self, line: _Line) -> None:
        with suppress(OSError):
            line.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._drop(line)

    def _drop(self, line: _Line) -> None:
        self._lines.discard(line)
        for end in (line.client, line.server):
            if end is not None:
                with suppress(KeyError, ValueError):
                    self._selector.unregister(end)
                end.close()


class _ReplyLoss:
    """Which exchanges lose their reply, and how much of it arrives."""

    def __init__(self, after: int, times: int | None, of: bytes, bytes_: int) -> None:
        self.bytes = bytes_
        self._of = of
        self._numbers = itertools.count()
        self._first = after
        self._end = float("inf") if times is None else after + times

    def takes(self, command: bytes) -> bool:
        """Whether this exchange loses its reply. Called once for each exchange that begins."""
        name = command.split(b"\r\n", 3)[2:3]
        if (name and name[0].upper() in _HANDSHAKE) or self._of not in command:
            return False
        return self._first <= next(self._numbers) < self._end


class _Half:
    """One direction of a line: bytes that were read and are not written yet. An empty chunk is the end."""

    def __init__(self) -> None:
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.held = 0
        self.has_ended = False
        """Whether its source will send no more."""
        self.is_done = False
        """Whether its sink has been sent that end."""
        self.is_stuck = False
        """Whether its sink accepts no more for now."""

    @property
    def due_at(self) -> float:
        return self.chunks[0][0] if self.chunks and not self.is_stuck else float("inf")

    def add(self, data: bytes, due_at: float) -> None:
        self.chunks.append((due_at, data))
        self.held += len(data)
        self.has_ended = self.has_ended or not data

    def sent(self, size: int) -> None:
        due_at, data = self.chunks.popleft()
        if size < len(data):
            self.chunks.appendleft((due_at, data[size:]))
        self.held -= size

    def end(self, sink: socket.socket) -> None:
        self.chunks.clear()
        self.is_done = True
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        self.chunks.clear()
        self.held = 0
        self.is_done = self.has_ended = True


class _Line:
    """A client's connection, and the connection to the server that belongs to it."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.up = _Half()
        self.down = _Half()
        self.is_asking = False
        """Whether the client has sent, and nothing has come back."""
        self.loss: _ReplyLoss | None = None
        """The fault by which the reply will be lost, if any."""

    @property
    def is_over(self) -> bool:
        return self.up.is_done and self.down.is_done

    def due_at(self) -> float:
        return min(self.up.due_at, self.down.due_at)

    def is_due(self) -> bool:
        return self.due_at() <= time.monotonic()

    def hurry(self) -> None:
        """Make all bytes that are held back due now."""
        for half in (self.up, self.down):
            half.chunks = deque((0.0, data) for _, data in half.chunks)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _connected(target: Target) -> socket.socket:
    if isinstance(target, str):
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(_CONNECT_S)
        try:
            server.connect(target)
        except OSError:
            server.close()
            raise
    else:
        server = socket.create_connection(target, _CONNECT_S)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.setblocking(False)
    return server
