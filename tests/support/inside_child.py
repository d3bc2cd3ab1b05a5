"""A child process that runs jobs which use `current_job`, and all that it tells."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from queue_eval.runtime.notices import notice_file
from queue_eval.runtime.pipe import FrameBuffer, Kind, Report, Setup, encode_run, parse_frame, parse_report
from tests.support.executor_harness import ROOT
from tests.support.waiting import wait_until

LANE = "0123456789abcdef"
FUNCTIONS = "tests.support.inside_functions"
_PROGRAM = "from queue_eval.runtime.child import main; main()"


def inside(folder: Path, **changes: Any) -> dict[str, Any]:
    """`Setup.inside`, with all folders below `folder`."""
    for name in ("checkpoints", "folders", "notices"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "campaign": "search", "uid": LANE, "worker": "w1", "lane": LANE,
        "checkpoints": str(folder / "checkpoints"), "folders": str(folder / "folders"),
        "notices": str(folder / "notices"), "mailbox": str(folder / "mailbox"), "time_limit_s": None,
        "ends_at": None, "keep_checkpoints": False, "checkpoint_space": None, **changes,
    }  # fmt: skip


class InsideChild:
    """A child with `threads` slots. A thread reads what it sends, as a worker does."""

    def __init__(
        self, folder: Path, function: str = "call", *, threads: int = 1, reads: bool = True, **changes: Any
    ) -> None:
        """`reads`: whether to read from the beginning; else once `read` is called."""
        self.facts = inside(folder, **changes)
        self.frames: list[tuple[list[Any], bytes]] = []
        """From the pipe."""
        self.letters: list[tuple[list[Any], bytes]] = []
        """From the mailbox."""
        self.reports: dict[tuple[int, int], Report] = {}
        self._pipe, childs_pipe = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        self._mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mailbox.bind(self.facts["mailbox"])
        fds = (childs_pipe.fileno(), lifeline_read)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, *map(str, fds), "tell-up", "tell-left"], pass_fds=fds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        childs_pipe.close()
        os.close(lifeline_read)
        name = function if ":" in function else f"{FUNCTIONS}:{function}"
        setup = Setup(name, None, (str(ROOT),), {}, threads, inside=self.facts)
        self._pipe.sendall(setup.encode())
        self._reader = threading.Thread(target=self._read)
        if reads:
            self.read()

    def __enter__(self) -> InsideChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lifeline)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self._reader.ident is not None:
            self._reader.join()
        self._pipe.close()
        self._mailbox.close()

    def read(self) -> None:
        self._reader.start()

    def start(self, job: int, attempt: int = 1, slots: int = 1, **config: Any) -> None:
        self._pipe.sendall(encode_run(job, attempt, json.dumps(config).encode(), slots))

    def run(self, job: int, attempt: int = 1, **config: Any) -> Report:
        self.start(job, attempt, **config)
        return self.report(job, attempt)

    def report(self, job: int, attempt: int = 1) -> Report:
        return wait_until(lambda: self.reports.get((job, attempt)))

    def tell(self, word: str, job: int, attempt: int = 1) -> None:
        path = Path(notice_file(self.facts["notices"], LANE, job, attempt))
        part = path.with_suffix(".new")
        part.write_text(word)
        part.rename(path)

    def points(self, job: int, attempt: int = 1) -> list[tuple[int, dict[str, Any]]]:
        """(step, values) of what came by the pipe."""
        return _points(self.frames, job, attempt)

    def sent_points(self, job: int, attempt: int = 1) -> list[tuple[int, dict[str, Any]]]:
        """The same of what came by the mailbox."""
        return _points(self.letters, job, attempt)

    def kinds(self, job: int, attempt: int = 1) -> list[str]:
        return [header[0] for header, _ in self.frames if header[1:3] == [job, attempt]]

    def sent_kinds(self, job: int, attempt: int = 1) -> list[str]:
        return [header[0] for header, _ in self.letters if header[1:3] == [job, attempt]]

    def dropped(self, job: int, attempt: int = 1) -> int:
        frames = [*self.frames, *self.letters]
        return sum(header[4] for header, _ in frames if header[:3] == [Kind.POINTS, job, attempt])

    def _read(self) -> None:
        frames = FrameBuffer()
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            selector.register(self._mailbox, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._mailbox:
                        header, body = parse_frame(self._mailbox.recv(1 << 16))
                        assert header[1] == LANE
                        self.letters.append(([header[0], *header[2:]], body))
                        continue
                    try:
                        data = self._pipe.recv(1 << 20)
                    except ConnectionResetError:
                        return
                    if not data:
                        return
                    for header, body in frames.feed(data):
                        self.frames.append((header, body))
                        if header[0] == Kind.REPORT:
                            report = parse_report(header, body)
                            self.reports[report.id, report.attempt] = report


def _points(
    frames: list[tuple[list[Any], bytes]], job: int, attempt: int
) -> list[tuple[int, dict[str, Any]]]:
    lines = [
        line.split(b" ", 2) for header, body in frames if header[:3] == [Kind.POINTS, job, attempt]
        for line in body.splitlines()
    ]  # fmt: skip
    return [(int(step), json.loads(values)) for _, step, values in lines]
