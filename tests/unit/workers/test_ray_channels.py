"""The connections of attempts in Ray's processes, at both ends."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from queue_eval.runtime.channel import Channel
from queue_eval.runtime.pipe import FrameBuffer, frame
from tests.support.waiting import wait_until
from workers.executors.ray_channels import Channels


class Outlet:
    """Takes what is for the worker."""

    def __init__(self):
        self.headers = []
        self._lock = threading.Lock()

    def tell(self, frames):
        with self._lock:
            self.headers += [(header, body) for header, body in FrameBuffer().feed(frames)]


@pytest.fixture
def outlet():
    return Outlet()


@pytest.fixture
def channels(outlet):
    return Channels(outlet)


@pytest.fixture
def address(channels):
    return channels.listen("127.0.0.1")


@pytest.fixture
def connect(address):
    made = []

    def make(job=5, attempt=2, to=address):
        made.append(Channel(to, job, attempt))
        return made[-1]

    yield make
    for channel in made:
        channel.finish()


def test_all_that_was_told_is_there_at_the_end(outlet, connect):
    channel = connect()
    for number in range(2000):
        assert wait_until(lambda number=number: channel(("points", 5, 2, number, 0), b"1 2 {}\n" * 500))
    channel.finish()
    assert [header[3] for header, _ in outlet.headers] == list(range(2000))
    assert {body for _, body in outlet.headers} == {b"1 2 {}\n" * 500}


def test_what_was_said_before_is_seen_by_the_first_look(channels, connect):
    channels.notify([(5, 2), (6, 1)], "drain")
    assert connect().look() == "drain"
    assert connect(attempt=3).look() is None


def test_a_notice_is_seen_and_stop_stays(channels, connect):
    channel = connect()
    assert channel.look() is None
    channels.notify([(5, 2)], "drain")
    wait_until(lambda: channel.look() == "drain")
    channels.notify([(5, 2)], "stop")
    wait_until(lambda: channel.look() == "stop")
    channels.notify([(5, 2)], "drain")
    assert connect().look() == "stop"
    channels.forget((5, 2))
    assert connect().look() is None


def test_a_fork_has_a_connection_of_its_own(outlet, connect):
    channel = connect()
    assert channel(("points", 5, 2, 1, 0), wait=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if channel(("points", 5, 2, 2, 0), wait=True) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert channel(("points", 5, 2, 3, 0), wait=True)
    channel.finish()
    assert sorted(header[3] for header, _ in outlet.headers) == [1, 2, 3]


@pytest.mark.parametrize(
    "told",
    [
        ("points", 6, 2, 1, 0), ("report", 5, 2, "ok", 1.0, "", 0), ("hello", 5, 2), ("begun", [[5, 2]]),
        ("looked",), ("looked", "5", 2),
    ],
)  # fmt: skip
def test_who_tells_anything_else_is_not_heard_any_more(outlet, connect, told):
    channel = connect()
    assert channel.look() is None
    assert channel(told, wait=True)
    with pytest.raises(OSError, match=r"forwarder|Broken|reset"):
        wait_until(lambda: not channel(("looked", 5, 2)))
    assert outlet.headers == []


@pytest.mark.parametrize("data", [b"x" * 64, b"", b"\0" * 1000, b"GET / HTTP/1.1\r\n\r\n"])
def test_strangers_are_sent_away(outlet, address, data):
    with socket.create_connection(address[:2], timeout=10) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    assert outlet.headers == []


def test_a_frame_that_is_too_long_is_not_awaited(outlet, address):
    with socket.create_connection(address[:2], timeout=10) as stranger:
        stranger.sendall(address[2].encode() + frame(("hello", 5, 2)) + (1 << 20).to_bytes(4, "big"))
        assert stranger.recv(100) in (b"none\n", b"")
        while stranger.recv(100):
            pass


@pytest.mark.parametrize("kind", ["nobody", "none"])
def test_where_nobody_can_be_reached_the_output_says_so_once(capsys, connect, kind):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    channel = connect(to=None if kind == "none" else ["127.0.0.1", port, "secret"])
    for _ in range(3):
        assert channel(("points", 5, 2, 1, 0), wait=True)
        assert channel.look() is None
    channel.finish()
    assert capsys.readouterr().err.count("cannot reach") == 1
