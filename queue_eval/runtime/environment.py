"""What user code finds around it in a process that others use after it, and what it prints there.

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import io
import os
import sys

from queue_eval.runtime.pipe import OUTPUT_BYTES, Kept
from queue_eval.runtime.stop_signals import Survival

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the other imports `enum`


class Surroundings:
    """What the next attempt must find again: working directory, stdout, stderr, no alarm, and a process that
    outlives stop signals.

    Both streams write at each line, so that the last words of a process that dies are known, and write what
    is not valid text escaped rather than fail.
    """

    def __init__(self) -> None:
        self._survival = Survival()
        self._folder = working_folder()
        self._copies = (os.dup(1), os.dup(2))
        self._streams = (open_stream(1), open_stream(2))
        sys.stdout, sys.stderr = self._streams
        # Whoever falls back on these is to be heard in the right order.
        sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]

    def flush(self) -> None:
        """What was printed goes into the pipe that the parent reads."""
        first, second = self._streams
        is_own = sys.stdout is first and sys.stderr is second
        for stream in (first, second) if is_own else (first, second, sys.stdout, sys.stderr):
            try:  # noqa: SIM105
                stream.flush()
            except Exception:  # noqa: S110 - user code may have closed or replaced it
                pass  # contextlib takes a while to import, here and below

    def restore(self) -> None:
        # A forgotten alarm would go off in somebody else's attempt.
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._survival.restore()
        for fd, copy in zip((1, 2), self._copies, strict=True):
            if not _is_same_file(fd, copy):
                os.dup2(copy, fd)
        first, second = self._streams
        if sys.stdout is not first or sys.stderr is not second or first.closed or second.closed:
            self._streams = (open_stream(1), open_stream(2))
            sys.stdout, sys.stderr = self._streams
        if self._folder is not None and working_folder() != self._folder:
            try:  # noqa: SIM105
                os.chdir(self._folder)
            except OSError:  # it is not there any more
                pass


def hide_program() -> None:
    """User code sees no arguments and an empty main module, not those of this process."""
    sys.argv = [""]
    sys.modules["__main__"] = type(sys)("__main__")


def working_folder() -> str | None:
    """The working directory; None when it is not there any more."""
    try:
        return os.getcwd()  # noqa: PTH109 - no pathlib in this process
    except OSError:
        return None


def _is_same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # closed
        return False


def open_stream(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class ThreadOutput(io.TextIOBase):
    """What each thread of the process prints, kept apart and bounded."""

    encoding = "utf-8"

    def __init__(self) -> None:
        import threading

        self._local = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        kept: Kept | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = Kept(OUTPUT_BYTES)
        kept.add(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def take(self) -> bytes:
        kept: Kept | None = getattr(self._local, "kept", None)
        if kept is None:
            return b""
        self._local.kept = None
        return kept.take()

    def close(self) -> None:
        """User code may close stdout; the next attempt prints again."""
