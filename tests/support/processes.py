"""Processes that tests start, the signals that they start with, and what is seen of those that may end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

import psutil


class Started(subprocess.Popen):
    """A process that ends with its `with` block.

    `Popen` waits for the end of the process, also when the block has failed: a process that was never told
    to end is then waited for until the test times out, and stays behind. This one is killed instead.
    """

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        try:
            super().__exit__(kind, value, traceback)
        except BaseException:  # the test timed out while it waited
            self.kill()
            raise


@contextmanager
def ignored(number: int) -> Iterator[None]:
    """Processes that are started meanwhile ignore this signal, as after `nohup` or a shell's `&`."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def command_line(process: psutil.Process) -> list[str]:
    """The words it was started with; none of one that has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []


def environment_of(process: psutil.Process) -> dict[str, str]:
    """What it was started with; nothing for one that has ended and for the kernel's."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return process.environ() if process.pid != os.getpid() else {}
    return {}
