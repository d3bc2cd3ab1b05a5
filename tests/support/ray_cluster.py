"""A Ray cluster of one node, as ``ray start --head`` makes it, and what is killed of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from tests.support.networks import free_ports
from tests.support.waiting import wait_until

_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


class RayCluster:
    """Two CPUs on this machine. `close` leaves no process of it behind."""

    def __init__(self, cpus: int = 2, token: str | None = None) -> None:
        self._cpus = cpus
        # Never as it would be by default: that depends on whether this user has ever made a token.
        self._mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else _NO_TOKEN
        (self._port,) = free_ports(1)
        self.folder = Path(tempfile.mkdtemp(prefix="qe-ray-"))
        self._block: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def forward(self, **changes: Any) -> dict[str, Any]:
        """What a campaign says of where to forward to."""
        return {
            "address": self.address, "password": None, "num_cpus": None, "num_gpus": None,
            "num_cpus_per_task": 1, "num_gpus_per_task": None, "ray_kwargs": {}, "in_flight": None,
        } | changes  # fmt: skip

    def start(self) -> None:
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--port", str(self._port), "--node-ip-address", "127.0.0.1", "--num-cpus", str(self._cpus),
            "--include-dashboard", "false", "--temp-dir", str(self.folder),
            "--disable-usage-stats", "--object-store-memory", "100000000",
        ]  # fmt: skip
        with (self.folder / "start.log").open("ab") as log:
            self._block = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **self._mode},
            )  # fmt: skip
        wait_until(lambda: self._answers() or self._block.poll() is not None, timeout_s=60)
        assert self._block.poll() is None, (self.folder / "start.log").read_text()

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Its processes, those whose command line begins with or holds /`name` only."""
        # The command line of a worker is rewritten once it runs: it is known by whom it descends from.
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()):
                found[process.pid] = process
                with contextlib.suppress(psutil.NoSuchProcess):
                    found |= {child.pid: child for child in process.children(recursive=True)}
        return [process for process in found.values() if _is_called(process, name)]

    def children(self) -> list[int]:
        """The processes that run user code, or will."""
        # Its agents are called alike, and take the raylet with them.
        found = [*self.processes("ray::queue_eval"), *self.processes("ray::IDLE")]
        return [process.pid for process in found]

    def kill(self, name: str = "") -> int:
        """``kill -9`` of all its processes, or those whose command line names `name`; how many."""
        found = self.processes(name)
        for process in found:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        return len(found)

    def restart(self) -> None:
        """As somebody would who found it dead: what is left of it is ended, and it comes back."""
        self.stop()
        self.start()

    def stop(self) -> None:
        if self._block is not None:
            self._block.kill()
            self._block.wait()
            self._block = None
        wait_until(lambda: not self.kill(), timeout_s=30)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self._port)) != 0:
                return False
        return bool(self.processes("raylet/raylet "))


def _is_called(process: psutil.Process, name: str) -> bool:
    try:
        line = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and (line.startswith(name) or f"/{name}" in line)
    except psutil.NoSuchProcess:
        return False
