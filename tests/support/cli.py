"""Calls of the command line, and campaigns filled by hand, for the tests beside this; no test itself."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from queue_eval.campaign import keys
from queue_eval.campaign.commands import CampaignCommands
from queue_eval.cli import main
from queue_eval.model.moves import Settlement, Submission
from queue_eval.model.states import Outcome
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link
from tests.support.processes import Started

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-P", "-m", "queue_eval")


def cli(*words: object, home: Path | None = None, cwd: Path | None = None, **environment: str):
    """One call of the program, as a process of its own; `home` is where the server is."""
    return subprocess.run(
        [*COMMAND, *map(str, words)], env=_environment(home, environment), cwd=cwd or "/", text=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def start_cli(*words: object, home: Path, cwd: Path) -> subprocess.Popen[str]:
    """A call of the program that goes on."""
    return Started(
        [*COMMAND, *map(str, words)], env=_environment(home, {}), cwd=cwd, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def cli_here(*words: object, home: Path | None = None):
    """The same in this process, which is quicker; for what other tests show to be the same."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    stack = ExitStack()
    stack.enter_context(redirect_stdout(out))
    stack.enter_context(redirect_stderr(err))
    stack.enter_context(pytest.MonkeyPatch.context()).setenv("QUEUE_EVAL_HOME", str(home))
    with stack, pytest.raises(SystemExit) as ending:
        main([str(word) for word in words])
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(words, ending.value.code, *texts)


def _environment(home: Path | None, more: dict[str, str]) -> dict[str, str]:
    homes = {} if home is None else {"QUEUE_EVAL_HOME": str(home)}
    return os.environ | {"PYTHONPATH": str(ROOT)} | homes | more


def complaint(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line on standard error of a call that failed, with nothing on standard output."""
    assert (done.returncode, done.stdout) == (status, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("queue-eval: ")
    return line


def document(done: subprocess.CompletedProcess[str], status: int = 0) -> Any:
    """The one JSON document on standard output."""
    assert done.returncode == status, done
    return json.loads(done.stdout)


class Filled:
    """A campaign that is filled by hand: no worker needed."""

    def __init__(self, home: Path, name: str) -> None:
        self.link = Link(find_access(None, home), name="test")
        fields = {
            "function": "pack.mod:run", "method": "process", "source": "", "max_attempts": 2, "max_losses": 3,
            "options": '{"path": [], "kwargs": {}, "time_limit": null}', "retry_first_ms": 0,
            "retry_factor": 1, "retry_max_ms": 0, "payload": b"", "signature": "", "num_workers": 1,
        }  # fmt: skip
        self.queue = CampaignCommands.open(self.link, name, fields, accept_change=False)[0]
        self._number = 0

    def submit(self, *configs: dict[str, Any], delay_ms: int = 0) -> None:
        self._number += 1
        submissions = [
            Submission(json.dumps(c), f"{self._number} {i}".encode()) for i, c in enumerate(configs)
        ]
        self.queue.enqueue("driver", self._number, submissions, reuse=False, delay_ms=delay_ms)

    def settle(self, *settlements: Settlement, room: int = 0, worker: str = "box-1"):
        self._number += 1
        return self.queue.settle(
            worker, settlements, lease_ms=60_000, request=str(self._number), room=room, prefetch=0,
            now=time.monotonic(),
        ).leases  # fmt: skip

    def run(self, count: int, outcome: Outcome, body: str, output: str = "") -> None:
        """Lease and settle."""
        self.settle(
            *(
                Settlement(
                    lease.id,
                    lease.attempt,
                    outcome,
                    20.0,
                    time.monotonic(),
                    "5eed",
                    body.encode(),
                    output.encode(),
                )
                for lease in self.settle(room=count)
            )
        )

    def register(self, worker: str, **said: Any) -> None:
        """What a live worker does."""
        card = {
            "name": worker, "host": "box", "machine": "m", "pid": 77, "created": time.time() - 5, "slots": 4,
            "campaigns": None, "state": "running",
        } | said  # fmt: skip
        self.link.call(lambda client: client.set(keys.worker_key(worker), json.dumps(card)))
        self.link.call(lambda client: client.zadd(keys.WORKERS, {worker: (time.time() - 1) * 1000}))

    def deregister(self, worker: str) -> None:
        self.link.call(lambda client: client.delete(keys.worker_key(worker)))


COUNTS = {"scheduled": 1, "pending": 2, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 1}


@contextmanager
def filled_campaign(home: Path, name: str) -> Iterator[Filled]:
    """Ids 1, 2 succeeded; 3 failed after two attempts; 4 runs; 5, 6 pending; 7 scheduled; 8 cancelled."""
    filled = Filled(home, name)
    filled.submit({"x": 1, "deep": {"a": [1]}}, {"x": 2, "state": "mine"}, {"x": 3})
    filled.run(1, Outcome.OK, "10.5", "printed\n")
    filled.run(1, Outcome.OK, '{"score": 1, "nan": NaN}')
    filled.run(1, Outcome.ERROR, "Traceback ...\nValueError: first", "half\n")
    filled.run(1, Outcome.ERROR, "Traceback ...\nValueError: second", "rest\n")
    filled.submit({"x": 4}, {"x": 5}, {"x": 6})
    filled.settle(room=1)
    filled.submit({"x": 7}, delay_ms=3_600_000)
    filled.submit({"x": 8})
    filled.queue.cancel([8])
    filled.register("box-1")
    try:
        yield filled
    finally:
        filled.deregister("box-1")
        filled.queue.purge()
        filled.link.close()


def on_terminal(*words: str, home: Path, typed: str, status: int) -> str:
    """What a user at a terminal sees."""
    ended, seen = run_on_terminal(*COMMAND, *words, home=home, typed=typed)
    assert ended == status, seen
    return seen


def run_on_terminal(
    *command: str, home: Path, typed: str = "", cwd: Path | None = None, columns: int = 0, **more: str
) -> tuple[int, str]:
    """The exit status of a program at a terminal, and all that it has sent there.

    `columns`: the terminal's width, 0 for one that does not know its own.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24 if columns else 0, columns))
    environment = _environment(home, more)
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
        cwd=cwd,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # how Linux says that nobody writes any more
        pass
    os.close(ours)
    return process.wait(30), seen.decode()
