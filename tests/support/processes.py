"""Processes that tests start, and the signals that they start with."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


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
