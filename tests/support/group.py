"""A server for a group with a worker, what an intruder writes there, and a relay that listens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import redis

from queue_eval import Evaluator
from queue_eval.function.signing import Opening, sign
from queue_eval.function.user_code import digest
from queue_eval.server.lifecycle import start_server, stop_server
from queue_eval.transport.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from tests.conftest import end_processes_of
from tests.support.cli import COMMAND, ROOT
from tests.support.waiting import wait_until

Fields = dict[str, bytes]
"""Of the meta of a campaign."""

INVALID = "is not valid"


def signature_of(meta: Fields, campaign: str, key: bytes, revision: int) -> bytes:
    """What a driver with the key signs of this meta, for the opening of that revision."""
    opening = Opening(
        campaign, meta["uid"].decode(), revision, meta["function"].decode(), meta["method"].decode(),
        meta["queue"].decode(), meta["options"], meta["payload"],
    )  # fmt: skip
    return sign(key, opening).encode()


@dataclass
class Group:
    """A server with users, a worker that has only its access file, and a module that leaves a marker."""

    home: Path
    folder: Path
    log: Path

    @property
    def file(self) -> Path:
        """The access file of workers, as on another host."""
        return self.folder / "given.json"

    def driver(self, campaign: str, function: Any, **more: Any) -> Evaluator:
        keywords = {
            "campaign": campaign, "home": self.folder / "driver", "access": self.home / ACCESS_FILE,
            "local_workers": False, "max_losses": 1,
        }  # fmt: skip
        evaluator: Evaluator = Evaluator.create(function, "process", keywords | more)
        return evaluator

    def client(self) -> redis.Redis:
        """With what a worker has."""
        return redis.Redis.from_url(find_access(file=self.file).url, protocol=2)

    def start_worker(self, *words: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join((str(ROOT), str(self.folder)))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "worker", "--access", str(self.file), "--home", str(self.folder / "far"),
                 "--lease", "2s", *words],
                cwd=self.folder, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path},
            )  # fmt: skip

    def wait_refused(self, campaign: str, words: str) -> None:
        start = f"campaign {campaign} is not served: "

        def is_told() -> bool:
            lines = self.log.read_text().splitlines()
            return any(start in line and words in line for line in lines)

        wait_until(is_told)


@contextmanager
def running_group() -> Iterator[Group]:
    """A group whose processes end with the block."""
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        group = Group(folder / "home", folder, folder / "worker.log")
        start_server(group.home, host="127.0.0.1", port=0, keep=True)
        group.file.touch(0o600)
        group.file.write_bytes((group.home / WORKER_ACCESS_FILE).read_bytes())
        (folder / "marks.py").write_text("def run(config, marker):\n    open(marker, 'w').close()\n")
        worker = group.start_worker("-n", "2", "--name", "far")
        try:
            yield group
            assert worker.poll() is None
            assert "Traceback" not in group.log.read_text()
        finally:
            worker.kill()
            worker.wait()
            stop_server(group.home)
            end_processes_of(folder)


class Relay:
    """Passes connections on, and keeps what the clients have sent. With `spoil` it changes that."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.seen: list[bytes] = []
        self.spoil = False
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._to)
                self._open += [client, server]
                self._start(self._pass, client, server, self.seen)
                self._start(self._pass, server, client, [])

    def _pass(self, source: socket.socket, target: socket.socket, seen: list[bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.append(data)
                if self.spoil:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)


def other_kwargs(meta: Fields, marker: Path) -> Fields:
    options = json.loads(meta["options"]) | {"kwargs": {"marker": str(marker)}}
    return {"options": json.dumps(options).encode()}


def other_options(meta: Fields, marker: Path, **changed: Any) -> Fields:
    return {"options": json.dumps(json.loads(meta["options"]) | changed).encode()}


def other_path(meta: Fields, marker: Path) -> Fields:
    return other_options(meta, marker, path=[str(marker.parent)])


def other_forward(meta: Fields, marker: Path, url: str = "redis://127.0.0.1:1/0") -> Fields:
    forward = json.loads(meta["options"])["forward"] or {"queue": "default", "in_flight": 1}
    return other_options(meta, marker, forward=forward | {"url": url})


def other_time_limit(meta: Fields, marker: Path) -> Fields:
    return other_options(meta, marker, time_limit=0.1)


def unsigned_campaign(marker: Path) -> dict[str, Any]:
    """What a campaign is opened with by somebody without a key; its jobs would make the marker."""
    return {
        "function": "marks:run", "method": "process", "source": "", "max_attempts": 1, "max_losses": 1,
        "options": json.dumps({"path": [], "kwargs": {"marker": str(marker)}, "time_limit": None}),
        "retry_first_ms": 0, "retry_factor": 1, "retry_max_ms": 0, "payload": b"", "signature": "",
        "num_workers": 1, "queue": "default",
    }  # fmt: skip


def by_script(meta: Fields, marker: Path) -> Fields:
    """Of a file on the worker's machine, which it runs as a script."""
    script = marker.with_name("some_script.py")
    script.write_text("def run(config, marker):\n    open(marker, 'w').close()\n")
    code = json.loads(meta["options"])["code"] | {
        "script": {"file": str(script), "digest": digest(script.read_bytes()), "spec": "", "argv": ["x"]},
    }  # fmt: skip
    changed = other_options(meta, marker, code=code, kwargs={"marker": str(marker)})
    return changed | {"function": b"__main__:run", "payload": b""}


def by_name(meta: Fields, marker: Path) -> Fields:
    """Of a module in a folder that the campaign names."""
    options = {"path": [str(marker.parent)], "kwargs": {"marker": str(marker)}, "time_limit": None}
    return {"options": json.dumps(options).encode(), "function": b"marks:run", "payload": b""}


def by_value(meta: Fields, marker: Path) -> Fields:
    def evil(config: Any, path: str = str(marker)) -> None:
        import pathlib

        pathlib.Path(path).touch()

    return {"payload": cloudpickle.dumps(evil)}
