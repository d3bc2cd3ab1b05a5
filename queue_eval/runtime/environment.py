"""The process environment of an attempt (folder, streams, signals), and the capture of what it prints.

The processes that run user code import this, so it imports next to nothing.
"""

from __future__ import annotations

import io
import os
import sys

from queue_eval.runtime.attempts import token_of_slot
from queue_eval.runtime.pipe import OUTPUT_BYTES, HeadTail
from queue_eval.runtime.stop_signals import StopSignalHandlers

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal

    from queue_eval.runtime.attempts import Send
    from queue_eval.runtime.print_teller import PrintTeller
else:
    import _signal as signal  # the other imports `enum`


class ProcessEnvironment:
    """Restores the process after each attempt: working directory, stdout, stderr, no alarm, and our handlers
    for stop signals.

    Both streams are line buffered, so that the last lines of a process that dies are known. They escape
    what is not valid text, rather than fail.
    """

    def __init__(self) -> None:
        self._stop_signals = StopSignalHandlers()
        self._folder = working_folder()
        self._copies = (os.dup(1), os.dup(2))
        self._streams = (open_stream(1), open_stream(2))
        sys.stdout, sys.stderr = self._streams
        # Libraries that write to sys.__stdout__ must share our line buffering.
        sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]

    def flush(self) -> None:
        """Write what was printed into the pipe that the parent reads."""
        first, second = self._streams
        is_own = sys.stdout is first and sys.stderr is second
        for stream in (first, second) if is_own else (first, second, sys.stdout, sys.stderr):
            try:  # noqa: SIM105
                stream.flush()
            except Exception:  # noqa: S110 - user code may have closed or replaced it
                pass  # contextlib takes a while to import, here and below

    def restore(self) -> None:
        # A forgotten alarm would go off in the next attempt.
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._stop_signals.restore()
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
            except OSError:  # the folder was removed
                pass


def hide_program() -> None:
    """User code sees no arguments and an empty main module, not those of this process."""
    sys.argv = [""]
    sys.modules["__main__"] = type(sys)("__main__")


def working_folder() -> str | None:
    """The working directory; None when it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - no pathlib in this process
    except OSError:
        return None


def _is_same_file(fd: int, copy: int) -> bool:
    try:
        return os.path.sameopenfile(fd, copy)
    except OSError:  # closed
        return False


def open_stream(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class ThreadOutput(io.TextIOBase):
    """A stream that keeps what each thread prints apart, at most OUTPUT_BYTES of each."""

    encoding = "utf-8"

    def __init__(self, send: Send | None = None) -> None:
        """`send`: tells the worker what running attempts print; None: they print unseen."""
        import threading

        self._local = threading.local()
        self._send = send
        self._teller: PrintTeller | None = None

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        kept: HeadTail | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._begin()
        kept.add(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def take(self) -> bytes:
        kept: HeadTail | None = getattr(self._local, "kept", None)
        if kept is None:
            return b""
        # Forget it first: a finaliser may print at any moment, and would begin anew.
        if self._teller is not None and (token := token_of_slot()) is not None:
            self._teller.forget(token)
        self._local.kept = None
        return kept.take()

    def _begin(self) -> HeadTail:
        """The attempt of this thread prints for the first time."""
        token = token_of_slot()
        if self._send is None or token is None:
            kept = self._local.kept = HeadTail(OUTPUT_BYTES)
            return kept
        from queue_eval.runtime.print_teller import PrintTeller, SharedHeadTail

        shared = self._local.kept = SharedHeadTail(OUTPUT_BYTES)
        self._teller = self._teller or PrintTeller()
        self._teller.watch(token, shared.look, self._send)
        return shared

    def close(self) -> None:
        """Does nothing: user code may close stdout, but the next attempt must be able to print."""
