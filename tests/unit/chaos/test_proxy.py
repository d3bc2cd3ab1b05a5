"""The fault proxy between plain sockets: what it passes, what it loses, and that it leaves nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.proxy import StrandingProxy
from tests.support.waiting import wait_until

PING = b"*1\r\n$4\r\nPING\r\n"
AUTH = b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n"


class Server:
    """Answers each chunk with what it is told; keeps what it has heard."""

    def __init__(self, family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> None:
        self.heard: list[bytes] = []
        self.answer = b"+PONG\r\n"
        self._socket = socket.socket(family)
        self._socket.bind(address)
        self._socket.listen()
        self.address = self._socket.getsockname()
        self._lines: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(line,)))
            self._threads[-1].start()

    def _serve(self, line: socket.socket) -> None:
        self._lines.append(line)
        with line:
            while data := line.recv(65536):
                self.heard.append(data)
                line.sendall(self.answer)

    def hang_up(self) -> None:
        self._lines[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Server) -> Iterator[StrandingProxy]:
    with StrandingProxy(echo.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: StrandingProxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        yield client


def connect(proxy: StrandingProxy) -> socket.socket:
    return socket.create_connection(proxy.address, 10)


def ask(client: socket.socket, what: bytes = PING) -> bytes:
    client.sendall(what)
    return client.recv(65536)


def test_it_passes_everything_on(echo, client):
    assert [ask(client), ask(client)] == [b"+PONG\r\n"] * 2
    assert echo.heard == [PING, PING]


def test_a_unix_socket(tmp_path):
    echo = Server(socket.AF_UNIX, str(tmp_path / "s"))
    with StrandingProxy(str(tmp_path / "s")) as proxy, connect(proxy) as client:
        assert ask(client) == b"+PONG\r\n"
    echo.close()


def test_what_is_big_arrives_whole(echo, client):
    echo.answer = os.urandom(8 << 20)
    client.sendall(PING)
    came = bytearray()
    while len(came) < len(echo.answer):
        came += client.recv(1 << 20)
    assert came == echo.answer
    echo.answer = b""
    sent = os.urandom(8 << 20)
    client.sendall(sent)
    wait_until(lambda: b"".join(echo.heard[1:]) == sent)


def test_an_end_of_either_side_reaches_the_other(echo, proxy):
    client = connect(proxy)
    ask(client)
    client.close()
    wait_until(lambda: proxy.open_lines == 0)
    with connect(proxy) as client:
        ask(client)
        echo.hang_up()
        assert client.recv(10) == b""


def test_refused_and_healed(echo, proxy, client):
    ask(client)
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    proxy.heal()
    with connect(proxy) as again:
        assert ask(again) == b"+PONG\r\n"


def test_reset(proxy, client):
    ask(client)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    with pytest.raises(OSError, match=r"reset|pipe"), connect(proxy) as new:
        ask(new)


def test_nothing_comes_out_of_a_black_hole_until_it_heals(echo, proxy, client):
    ask(client)
    proxy.blackhole()
    client.sendall(PING)
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(10)
    with connect(proxy) as new:
        new.sendall(PING)
        gone = connect(proxy)
        gone.sendall(PING)
        gone.close()
        assert echo.heard == [PING]
        proxy.heal()
        client.settimeout(10)
        assert client.recv(10) == new.recv(10) == b"+PONG\r\n"
        # Late, as on a real network: also what was sent by one that has given up.
        wait_until(lambda: echo.heard == [PING] * 4)


def test_what_is_stranded_arrives_after_what_was_sent_later(echo, proxy, client):
    ask(client)
    proxy.strand()
    client.sendall(AUTH)
    client.close()
    with connect(proxy) as new:
        assert ask(new) == b"+PONG\r\n"
        assert echo.heard == [PING, PING]
        proxy.heal()
        wait_until(lambda: proxy.open_lines == 1)
        assert echo.heard == [PING, PING, AUTH]


def test_delay(proxy, client):
    ask(client)
    proxy.delay(0.05)
    began = time.monotonic()
    assert ask(client) == b"+PONG\r\n"
    assert time.monotonic() - began >= 0.1
    proxy.delay(60)
    client.sendall(PING)
    proxy.heal()
    assert client.recv(10) == b"+PONG\r\n"


def test_a_reply_is_dropped_after_the_command_ran(echo, proxy):
    proxy.drop_reply(after=1, times=2)
    outcomes = []
    for _ in range(4):
        with connect(proxy) as client:
            assert ask(client, AUTH) == b"+PONG\r\n"
            try:
                outcomes.append(ask(client))
            except ConnectionResetError:
                outcomes.append(None)
    assert outcomes == [b"+PONG\r\n", None, None, b"+PONG\r\n"]
    assert echo.heard == [AUTH, PING] * 4
    assert proxy.strikes == 2


def test_only_the_reply_of_some_commands_is_dropped(proxy, client):
    proxy.drop_reply(of=b"EVALSHA")
    assert ask(client) == b"+PONG\r\n"
    with pytest.raises(ConnectionResetError):
        ask(client, b"*1\r\n$7\r\nEVALSHA\r\n")


def test_an_exchange_under_way_is_not_meant(echo, proxy, client):
    echo.answer = b""
    client.sendall(PING)
    wait_until(lambda: echo.heard)
    proxy.drop_reply()
    echo.answer = b"+LATE\r\n"
    assert ask(client) == b"+LATE\r\n"
    with pytest.raises(ConnectionResetError):
        ask(client)


@pytest.mark.parametrize(("size", "part"), [(3, b"+PO"), (100, b"+PONG\r")])
def test_a_reply_is_cut(proxy, client, size, part):
    proxy.cut_reply(size)
    assert ask(client) == part
    assert client.recv(10) == b""


def test_the_server_moves(proxy, client):
    ask(client)
    other = Server()
    other.answer = b"+OTHER\r\n"
    proxy.retarget(other.address)
    assert ask(client) == b"+PONG\r\n"
    with connect(proxy) as new:
        assert ask(new) == b"+OTHER\r\n"
    other.close()


def test_nobody_at_the_target():
    nowhere = ("127.0.0.1", 1)
    with StrandingProxy(nowhere) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(10)


def test_nothing_is_left_after_close(echo):
    def mine() -> tuple[int, int]:
        return psutil.Process().num_fds(), threading.active_count()

    before = mine()
    for fault in ("heal", "refuse", "reset", "blackhole"):
        proxy = StrandingProxy(echo.address)
        client = connect(proxy)
        ask(client)
        getattr(proxy, fault)()
        proxy.close()
        proxy.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            proxy.heal()
    # Fewer, when what an earlier test had left has ended meanwhile.
    wait_until(lambda: all(now <= then for now, then in zip(mine(), before, strict=True)))


def test_it_needs_nothing_but_the_standard_library():
    import queue_eval.chaos.proxy as module

    text = Path(module.__file__).read_text()
    assert "queue_eval" not in text
