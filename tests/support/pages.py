"""Follows a page of the documentation as a reader does.

It saves the page's files, runs its commands, and compares what they print. What a page may hold:

- a block whose first line is a comment with a name, as ``# search.py``: a file, saved under that name;
- a block ``console``: commands behind ``$``, each with what it prints. A line ``…`` stands for any lines. A
  last line ``Killed``: the reader kills the command once it has printed the lines above. Numbers may be
  others in a block after ``<!-- numbers vary -->``;
- other blocks are only to be read.

Host, folder, workers' names, times, durations and rates may always be others.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from queue_eval.server.lifecycle import stop_server
from tests.conftest import end_processes_of
from tests.support.processes import Started
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(<!-- numbers vary -->\n)?```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"#(?:!.*\n#)? ([\w.-]+\.\w+)\n")
ELLIPSIS = "…"


class Command(NamedTuple):
    """One command of a page, and the lines that the page shows below it."""

    words: str
    printed: list[str]
    numbers_vary: bool


class File(NamedTuple):
    """One file of a page."""

    name: str
    text: str


def steps(page: str) -> Iterator[Command | File]:
    for vary, language, text in BLOCK.findall(page):
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                words, *printed = part.splitlines()
                yield Command(words, printed, bool(vary))
        elif found := FILE.match(text):
            yield File(found[1], text)


class Reader:
    """Follows pages in a folder, with more variables in its environment."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1", "COLUMNS": "80", "HOME": str(folder), **environment,
        }  # fmt: skip

    def follow(self, page: str) -> None:
        for step in steps(page):
            if isinstance(step, File):
                (self.folder / step.name).write_text(step.text)
            else:
                self._run(step)

    def _run(self, command: Command) -> None:
        shown = self._normal(command.printed, command.numbers_vary)
        is_killed = shown[-1:] == ["Killed"]

        def is_as_shown() -> bool:
            printed = self._normal(out.read_text().splitlines(), command.numbers_vary)
            return is_like(printed, [*shown[:-1], ELLIPSIS] if is_killed else shown)

        # A file and no pipe: what a command leaves running does not hold it up.
        out = self.folder.parent / "printed"
        with out.open("w") as file:
            process = Started(
                ["bash", "-c", command.words], cwd=self.folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        if is_killed:
            wait_until(lambda: is_as_shown() or process.poll() is not None, 60)
            process.kill()
        status = process.wait(60)
        text = f"$ {command.words}\n{out.read_text()}"
        assert status == (-signal.SIGKILL if is_killed else 0), text
        assert is_as_shown(), text

    def _normal(self, lines: list[str], numbers_vary: bool) -> list[str]:
        """Without what differs from one run to the next."""
        return [self._normal_line(line, numbers_vary) for line in lines]

    def _normal_line(self, line: str, numbers_vary: bool) -> str:
        line = line.replace(str(self.folder), "/tmp/search").replace(socket.gethostname(), "node1")
        line = re.sub(r"node1-[0-9a-f]{6}", "node1-W", line)
        line = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.\d]*", "DATE", line)
        line = re.sub(r"\b[\d.]+ ?(µs|ms|s|m|h)\b", "DURATION", line)
        line = re.sub(r"^(rate|time left) .*", r"\1", line)
        if numbers_vary:
            line = re.sub(r"\d+(\.\d+)?", "N", line)
        return " ".join(line.split())


@contextmanager
def reader(**environment: str) -> Iterator[Reader]:
    """In an empty folder, which is also its HOME; what runs for that ends with the block."""
    # Not pytest's folder: the path of a unix socket is short.
    with tempfile.TemporaryDirectory(prefix="qe-", ignore_cleanup_errors=True) as outer:
        folder = Path(outer) / "search"
        folder.mkdir()
        try:
            yield Reader(folder, **environment)
        finally:
            stop_server(folder / ".queue_eval")
            end_processes_of(folder)


def is_like(printed: list[str], shown: list[str]) -> bool:
    """Whether the lines are those shown, where an ellipsis stands for any lines."""
    if not shown:
        return not printed
    if shown[0] == ELLIPSIS:
        return is_like(printed, shown[1:]) or (bool(printed) and is_like(printed[1:], shown))
    return bool(printed) and printed[0] == shown[0] and is_like(printed[1:], shown[1:])
