"""Servers as others run them: a cluster of three, a primary with a replica and sentinels. All on loopback."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from queue_eval.server.programs import server_binary
from tests.support.waiting import wait_until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class Node:
    """One server process."""

    def __init__(self, folder: Path, port: int, *settings: str, program: Path | None = None) -> None:
        self.port = port
        self._program = program or server_binary()
        self._folder = folder
        self._settings = settings
        folder.mkdir(exist_ok=True)
        self.process = self._start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def answers(self) -> bool:
        return bool(self.says(lambda client: client.ping()))

    def says(self, question: Callable[[redis.Redis], Any]) -> Any:
        """What it answers; None when it does not now: it starts, or was told what to be, which ends the
        connections of its clients."""
        try:
            return question(self.client())
        except redis.RedisError:
            return None

    def is_in_cluster(self) -> bool:
        return bool(self.says(lambda client: client.cluster("INFO")["cluster_state"] == "ok"))

    def is_in_step(self) -> bool:
        """A replica that has all of its primary."""
        return bool(self.says(lambda client: client.info("replication").get("master_link_status") == "up"))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """Have it say nothing, and keep its connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def start(self, *more: str) -> None:
        self.process = self._start(*more)

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    self._program, *self._settings, *more, "--port", str(self.port),
                    "--dir", str(self._folder),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Free ones whose neighbours 10,000 above, where the bus of a cluster listens, are free, too.

    None that the system gives to outgoing connections, or Ray to its workers: those may take it before it is
    used.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(20_000, 22_700)
            try:
                for one in (port, port + 10_000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            except OSError:
                continue
            ports.append(port)
        return ports


@contextlib.contextmanager
def _nodes() -> Iterator[tuple[Path, list[Node]]]:
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as folder:
        nodes: list[Node] = []
        try:
            yield Path(folder), nodes
        finally:
            for node in nodes:
                if node.process.poll() is None:
                    node.kill()


_BOUNDS = (0, 5461, 10923, 16384)
"""The first slot of each of three nodes, and one more than the last."""


def place_of(key: str) -> int:
    """Which of the three nodes of `cluster` has this key."""
    slot = key_slot(key.encode())
    return next(number for number, bound in enumerate(_BOUNDS[1:]) if slot < bound)


@contextlib.contextmanager
def cluster(*settings: str) -> Iterator[list[Node]]:
    """Three primaries that share the slots."""
    with _nodes() as (folder, nodes):
        for number, port in enumerate(free_ports(3)):
            more = ("--cluster-enabled", "yes", *settings)
            nodes.append(Node(folder / f"n{number}", port, *more, *DURABLE))
        wait_until(lambda: all(node.answers() for node in nodes))
        for number, node in enumerate(nodes):
            client = node.client()
            client.execute_command("CLUSTER ADDSLOTSRANGE", _BOUNDS[number], _BOUNDS[number + 1] - 1)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            for other in nodes[:number]:
                client.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        wait_until(lambda: all(node.is_in_cluster() for node in nodes), timeout_s=30)
        yield nodes


@contextlib.contextmanager
def sentinels(service: str) -> Iterator[tuple[list[Node], Node, Node]]:
    """Three sentinels, the primary and the replica that they watch."""
    with _nodes() as (folder, nodes):
        ports = free_ports(5)
        primary = Node(folder / "primary", ports[0], *DURABLE)
        nodes.append(primary)
        replica = Node(folder / "replica", ports[1], "--replicaof", "127.0.0.1", str(ports[0]), *DURABLE)
        nodes.append(replica)
        wait_until(replica.is_in_step, timeout_s=30)
        watchers = []
        for number, port in enumerate(ports[2:]):
            config = folder / f"sentinel{number}.conf"
            config.write_text(
                f"sentinel monitor {service} 127.0.0.1 {primary.port} 2\n"
                f"sentinel down-after-milliseconds {service} 1000\n"
                f"sentinel failover-timeout {service} 5000\n"
            )
            watchers.append(Node(folder / f"s{number}", port, str(config), "--sentinel"))
            nodes.append(watchers[-1])

        def sees_all(client: redis.Redis) -> bool:
            seen = client.sentinel_master(service)
            return (seen["num-other-sentinels"], seen["num-slaves"]) == (2, 1)

        wait_until(lambda: all(node.says(sees_all) for node in watchers), timeout_s=30)
        yield watchers, primary, replica
