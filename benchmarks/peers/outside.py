"""A peer as the benchmark sees it: a process that is asked to run jobs, and all that it has started."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.broker import Broker
from benchmarks.peers import PEERS
from benchmarks.peers.inside import BROKER
from benchmarks.processes import kill_family, new_mark

ROOT = Path(__file__).resolve().parents[2]

_PATIENCE_S = 120.0
_END_S = 10.0

_HAS = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"


class OutsideError(Exception):
    """A peer that cannot be measured, and why."""


def interpreter_of(name: str, others: Sequence[str]) -> str:
    """The first interpreter that has the peer's package: this one, then `others`. Raises OutsideError."""
    package = PEERS[name].package
    for python in (sys.executable, *others):
        look = [python, "-c", _HAS, package]
        if not package or subprocess.run(look, cwd=ROOT, check=False).returncode == 0:
            return python
    raise OutsideError(
        f"skipped: no package {package} here; pip install '.[bench]', or name a --python that has it"
    )


class Outside:
    """Leave the `with` block, and nothing of the peer is left: processes, broker, files."""

    def __init__(self, name: str, python: str, fsync: str = "everysec") -> None:
        self.peer = PEERS[name]
        self._python = python
        self._fsync = fsync
        # Each step of the end is done whatever happens in the one before, also when that is interrupted.
        self._end = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self.version = ""
        self.settings = ""

    def __enter__(self) -> Outside:
        with self._end:
            self._start()
            self._end = self._end.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def run(self, jobs: int) -> float:
        """Seconds from the first submission to all results."""
        return float(self._ask(jobs, jobs)[0])

    def trips(self, jobs: int) -> list[float]:
        """Seconds of each of so many jobs, one after the other."""
        times: list[float] = self._ask(jobs, 1)
        return times

    def _start(self) -> None:
        # A short path: those of Ray's sockets are limited.
        folder = Path(tempfile.mkdtemp(prefix="qe-peer-"))
        self._end.callback(shutil.rmtree, folder, ignore_errors=True)
        self._log = folder / "log"
        mark = new_mark()
        environment = os.environ | {mark: "1", "TMPDIR": str(folder)}
        if self.peer.durable:
            broker = Broker(folder, self._fsync)
            self._end.callback(broker.kill)
            broker.start()
            environment[BROKER] = broker.url
        command = [self._python, "-m", f"benchmarks.peers.{self.peer.module}", *self.peer.arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
        self._end.callback(self._close_pipes)
        self._end.callback(kill_family, psutil.Process(self._process.pid), mark)
        self._end.callback(self._ask_to_end)
        said = self._reply()
        self.version, self.settings = said["version"], said["settings"]

    def _ask_to_end(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)

    def _close_pipes(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, jobs: int, batch: int) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            print(json.dumps([jobs, batch]), file=self._process.stdin, flush=True)
        except OSError:
            raise OutsideError(f"failed: it has ended; {self._last_words()}") from None
        return self._reply()

    def _reply(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_S)
        if not ready:
            raise OutsideError(f"failed: no answer for {_PATIENCE_S:g} s; {self._last_words()}")
        line = self._process.stdout.readline()
        if not line:
            raise OutsideError(f"failed: it has ended; {self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"last words: {lines[-1].strip()[:200]}" if lines else "it said nothing"
