"""The live view for tests: driven in this process, or at a terminal of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from queue_eval.top.app import TopApp
from queue_eval.top.server_thread import ServerThread
from queue_eval.transport.access import find_access
from tests.support.cli import COMMAND, ROOT

_PATIENCE_S = 20.0


class Driven:
    """What a user would see and do."""

    def __init__(self, pilot: Pilot[None]) -> None:
        self.pilot = pilot

    @property
    def text(self) -> str:
        strips = self.pilot.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    async def see(self, *parts: str, without: str = "") -> str:
        """Wait until all of this is on the screen."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (all(part in self.text for part in parts) and (not without or without not in self.text)):
            assert time.monotonic() < deadline, f"no {parts} without {without!r} in\n{self.text}"
            await asyncio.sleep(0.01)
        return self.text

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)


def drive(
    home: Path, campaign: str | None, user: Callable[[Driven], Awaitable[Any]], *,
    size: tuple[int, int] = (80, 24),
) -> None:  # fmt: skip
    """Open the live view and have `user` use it."""

    async def session() -> None:
        server = ServerThread(find_access(None, home))
        try:
            async with TopApp(server, campaign).run_test(size=size) as pilot:
                await user(Driven(pilot))
        finally:
            server.close()

    asyncio.run(session())


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self.seen = b""
        self._ours = ours

    def see(self, text: str) -> None:
        """Wait until this was written, whatever moves the cursor in between."""
        deadline = time.monotonic() + _PATIENCE_S
        while text not in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self.seen.decode(errors="replace")):
            assert time.monotonic() < deadline, self.seen.decode(errors="replace")
            if select.select([self._ours], [], [], 0.1)[0]:
                self.seen += os.read(self._ours, 65536)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Its exit status."""
        try:
            while piece := os.read(self._ours, 65536):
                self.seen += piece
        except OSError:  # how Linux says that nobody writes any more
            pass
        return self.process.wait(_PATIENCE_S)


@contextmanager
def terminal(*words: str, home: Path, size: tuple[int, int] = (80, 24)) -> Iterator[Terminal]:
    """`queue-eval` with these words. `size`: columns and rows."""
    columns, rows = size
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QUEUE_EVAL_HOME": str(home), "TERM": "xterm"}
    process = subprocess.Popen(
        [*COMMAND, *words], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
