"""A server for others than queue_eval: plain, on a port of its own, with an append-only log."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from pathlib import Path

import redis

from queue_eval.server.programs import server_binary


class Broker:
    """Not started by its constructor. `kill` ends it; what it has on disk stays in `folder`."""

    def __init__(self, folder: Path, fsync: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        password = secrets.token_hex(8)
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        self._folder = folder
        self._command = [
            str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password,
            "--dir", str(folder), "--appendonly", "yes", "--appendfsync", fsync, "--save", "",
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        client = redis.Redis.from_url(self.url)
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if self._process.poll() is not None:
                    raise RuntimeError(
                        f"the server has ended: {(self._folder / 'server.log').read_text()[-500:]}"
                    ) from None
                time.sleep(0.02)
        client.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
