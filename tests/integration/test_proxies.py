"""Proxies that pass on only some commands are named as such, before anything is submitted."""

from __future__ import annotations

import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from queue_eval import Evaluator
from queue_eval.errors import ServerRefusedError
from tests.support.cli import cli_here, complaint
from tests.support.networks import DURABLE, Node, free_ports
from tests.support.waiting import wait_until

PASSED_ON = (b"PING", b"AUTH", b"ZADD", b"HGETALL", b"EVALSHA")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    started = Node(tmp_path / "server", free_ports(1)[0], *DURABLE)
    wait_until(started.answers)
    yield started
    started.kill()


class _Proxy(socketserver.BaseRequestHandler):
    """Passes on what it knows; closes at anything else, or replies to it with `refusal`."""

    node: Node
    refusal: bytes
    passed_on: tuple[bytes, ...]

    def handle(self) -> None:
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.node.port)) as server:
            while data := self.request.recv(65536):
                reader.feed(data)
                while isinstance(words := reader.gets(), list):
                    name = words[0].upper()
                    if name in self.passed_on:
                        server.sendall(hiredis.pack_command(tuple(words)))
                        self.request.sendall(server.recv(65536))
                    elif self.refusal:
                        self.request.sendall(self.refusal.replace(b"NAME", words[0]))
                    else:
                        return


@pytest.fixture(params=["twemproxy", "envoy", "envoy with more commands"])
def proxied(request: pytest.FixtureRequest, node: Node) -> Iterator[tuple[str, str]]:
    """What the command line is given, and which command it must name."""
    refusal = b"" if request.param == "twemproxy" else b"-ERR unsupported command 'NAME'\r\n"
    more = (b"CLIENT", b"EVAL", b"INFO") if "more" in request.param else ()
    fields = {"node": node, "refusal": refusal, "passed_on": PASSED_ON + more}
    handler = type("Handler", (_Proxy,), fields)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}", "XREAD" if more else "CLIENT"
        server.shutdown()
        thread.join()


def check_refused(url: str, command: str, node: Node, folder: Path) -> None:
    for words in (("campaigns",), ("worker",)):
        said = complaint(cli_here(*words, "--url", url, home=folder), 2)
        assert f"does not know {command} (" in said
        assert said.endswith("(twemproxy, Envoy); give the URL of the server itself")
        assert "TLS" not in said
    with pytest.raises(ServerRefusedError, match=f"does not know {command} "):
        Evaluator.create("math:sqrt", "process", {"url": url, "home": folder, "campaign": "c"})
    assert node.client().keys() == []


def test_a_proxy_is_named_before_anything_is_submitted(proxied, node, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)
    check_refused(*proxied, node, tmp_path)


def test_twemproxy(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("nutcracker", path="/usr/local/bin:/usr/bin:/usr/sbin")
    if program is None:
        pytest.skip("no twemproxy here")
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)
    port, statistics = free_ports(2)
    settings = tmp_path / "twemproxy.yml"
    settings.write_text(
        f"p:\n  listen: 127.0.0.1:{port}\n  redis: true\n  servers:\n   - 127.0.0.1:{node.port}:1\n"
    )
    words = [program, "-c", settings, "-o", tmp_path / "log", "-s", str(statistics), "-a", "127.0.0.1"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _pings(port))
        check_refused(f"redis://127.0.0.1:{port}", "CLIENT", node, tmp_path)
    finally:
        process.kill()
        process.wait()


def _pings(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"*1\r\n$4\r\nPING\r\n")
            return line.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


def test_a_renamed_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)
    node = Node(tmp_path / "server", free_ports(1)[0], *DURABLE, "--rename-command", "XREAD", "OTHER")
    try:
        wait_until(node.answers)
        url = f"redis://{node.address}"
        said = complaint(cli_here("campaigns", "--url", url, home=tmp_path), 2)
        assert f"what answers at {url} does not know XREAD (unknown command 'XREAD'" in said
    finally:
        node.kill()


def test_a_port_that_speaks_no_redis_is_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_EVAL_KEY", "k" * 32)

    class Closing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closing) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"redis://127.0.0.1:{server.server_address[1]}"
        said = complaint(cli_here("campaigns", "--url", url, home=tmp_path), 2)
        server.shutdown()
        thread.join()
    assert "if it speaks TLS only" in said
