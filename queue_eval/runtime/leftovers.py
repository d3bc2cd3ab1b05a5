"""Finds and ends the processes that user code has left running.

::

    find ──▶ SIGTERM ──▶ up to 3 s ──▶ SIGKILL ──▶ resource trackers a second later

A process that runs user code leads a session, and has a mark in its environment. The processes that it
starts are found by either. Those with a process group of their own (``timeout``, ``mpirun``, ``bash -m``)
stay in the session. Those with a session of their own (``start_new_session``, daemons) inherit the mark. A
daemon that is to outlive its job must begin a session of its own without the mark.

The 3 s are for programs that end others first, as ``mpirun`` ends its ranks. The resource trackers of
multiprocessing and joblib end by themselves once all their users have ended; then they remove what those
have left in shared memory. So resource trackers are killed last.

Finding needs ``/proc``. Processes that run user code import this once they have started others.
"""

from __future__ import annotations

import os
import time

from queue_eval.marks import STARTED_BY

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    import _signal as signal  # the other imports `enum`

CAN_BE_FOUND = os.path.exists("/proc/self/stat")  # noqa: PTH110 - no pathlib in these processes

TERM_S = 3.0
"""How long a process may take to end after SIGTERM."""

_TRACKERS_S = 1.0
"""How much longer than TERM_S a resource tracker may take."""

_GIVE_UP_S = 5.0
"""A process that lives so long after SIGKILL hangs in the kernel: nobody can end it."""

_CHECK_PAUSES_S = (0.01, 0.1)
"""The pause between two checks whether the processes have ended: the first one, and the longest."""

_EXEC_S = 0.5
"""A process that begins another program for longer than this is looked at no more."""

_PR_SET_CHILD_SUBREAPER = 36
_PF_EXITING_OR_KTHREAD = 0x4 | 0x00200000
"""Flags in the stat file: of a process that ends, and of a thread of the kernel. They have no environment."""


class Found:
    """A process that was found. Its start time is kept, since its number may belong to another one by now."""

    __slots__ = ("group", "pid", "started")

    def __init__(self, pid: int, group: int, started: bytes) -> None:
        self.pid = pid
        self.group = group
        self.started = started

    def is_alive(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat[0] not in b"ZX" and stat[19] == self.started

    def send(self, number: int) -> None:
        if self.is_alive():
            try:  # noqa: SIM105 - contextlib takes a while to import
                os.kill(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def is_tracker(self) -> bool:
        return b"resource_tracker" in _read(self.pid, "cmdline")


def adopt_orphans() -> None:
    """Make orphans of user code children of this process, where the system can do that. `has_children` then
    covers them all."""
    try:
        # The C module within ctypes: ctypes itself takes ten times as long to import.
        import _ctypes as inside

        ctypes: Any = inside  # its annotations are those of Windows
        prctl = ctypes.dlsym(ctypes.dlopen(None, 2), "prctl")
        ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, OSError):  # no Linux, or no ctypes
        pass


def has_children() -> bool:
    """Whether this process has children, dead or alive. Costs one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # AttributeError: this system has no waitid
        return False
    return True


def find(mark: str, session: int = 0, spared_group: int = 0) -> dict[int, Found]:
    """The living processes with `mark`, or of `session`; but not this one, nor those of `spared_group`."""
    wanted = f"\0{STARTED_BY}={mark}".encode()
    found: dict[int, Found] = {}
    processes, give_up_at = _processes(), time.monotonic() + _EXEC_S
    while processes:
        unclear = []
        for pid, stat in processes:
            group = int(stat[2])
            if stat[0] in b"ZX" or group == spared_group:
                continue
            environment = _read(pid, "environ", refused=b"?") if mark else b"?"
            if (session and int(stat[3]) == session) or _has_mark(environment, wanted):
                found[pid] = Found(pid, group, stat[19])
            elif not environment and _begins_program(pid):
                unclear.append(pid)
        if not unclear or time.monotonic() >= give_up_at:
            break
        time.sleep(_CHECK_PAUSES_S[0])
        processes = _with_stat(unclear)
    found.pop(os.getpid(), None)
    return found


def reap_adopted() -> None:
    """Reap dead children that were adopted: nobody else ever asks for their exit status. Assumes: no user
    code runs. Children that user code has started itself are spared: a Popen object holds their number."""
    if not has_children() or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return
    own = b"%d" % os.getpid()
    dead = {pid for pid, stat in _processes() if stat[0] == b"Z" and stat[1] == own}
    import gc

    # The Popen classes of subprocess, multiprocessing and loky.
    dead -= {getattr(popen, "pid", None) for popen in gc.get_objects() if type(popen).__name__ == "Popen"}
    for pid in dead:
        try:  # noqa: SIM105
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def dies_with_first_process() -> bool:
    """Whether the first process of a container forked this one, and waits for it: then the container, and all
    processes in it, end with this one."""
    return os.getppid() == 1 and _read(1, "cmdline") == _read(os.getpid(), "cmdline") != b""


class Termination:
    """Ends the processes that were left running under a mark and in a session.

    Call `begin`, then `turn` until it returns True; or call `run`, which waits. Assumes: the process that
    had the mark has ended, or is this one, or is a member of `spared_group`.
    """

    def __init__(self, mark: str, session: int = 0, spared_group: int = 0) -> None:
        self._criteria = (mark, session, spared_group)
        self._known: dict[int, Found] = {}
        self._pause_s = _CHECK_PAUSES_S[0]
        self.next_at = 0.0
        """When to call `turn` again (monotonic, s)."""
        self.hung: list[int] = []
        """The numbers of processes that SIGKILL has not ended."""

    def begin(self) -> bool:
        """Send SIGTERM to all. Returns whether there are any."""
        now = time.monotonic()
        self._kill_at = now + TERM_S
        self._look(now)
        return bool(self._known)

    def turn(self, now: float) -> bool:
        """Do what is due. Returns whether nothing is left."""
        if now < self.next_at:
            return False
        self._known = {pid: process for pid, process in self._known.items() if process.is_alive()}
        if not self._known or now >= self._kill_at:
            self._look(now)
        if not self._known:
            return True
        if now >= self._kill_at + _GIVE_UP_S:
            self.hung = list(self._known)
            return True
        self.next_at = now + self._pause_s
        self._pause_s = min(1.5 * self._pause_s, _CHECK_PAUSES_S[1])
        return False

    def hurry(self, kill_at: float) -> None:
        """Send SIGKILL at `kill_at` (monotonic, s), if that is earlier than planned."""
        if kill_at < self._kill_at:
            self._kill_at = kill_at
            self.next_at = min(self.next_at, kill_at)

    def run(self, meanwhile: Callable[[], object] | None = None) -> None:
        if self.begin():
            while not self.turn(time.monotonic()):
                if meanwhile is not None:
                    meanwhile()
                time.sleep(max(0.0, self.next_at - time.monotonic()))

    def _look(self, now: float) -> None:
        """Find all again, since those that were found before may have started others, and signal them."""
        if not CAN_BE_FOUND:
            return
        known, self._known = self._known, find(*self._criteria)
        for pid, process in self._known.items():
            if now < self._kill_at:
                if pid not in known:
                    process.send(signal.SIGTERM)
            elif now >= self._kill_at + _TRACKERS_S or not process.is_tracker():
                process.send(signal.SIGKILL)


def _processes() -> list[tuple[int, list[bytes]]]:
    """Number and status fields of every process that can be seen."""
    if not CAN_BE_FOUND:
        return []
    names = os.listdir("/proc")  # noqa: PTH208
    return _with_stat(int(name) for name in names if name.isdigit())


def _with_stat(pids: Iterable[int]) -> list[tuple[int, list[bytes]]]:
    return [(pid, stat) for pid in pids if (stat := _stat(pid)) is not None]


def _stat(pid: int) -> list[bytes] | None:
    """Fields of ``/proc/PID/stat`` from the third on: state, parent, group, session, …; see ``man 5 proc``.
    The 7th of these has flags, the 20th is the start time, the 48th and 49th are where its environment begins
    and ends. None when the process is gone."""
    # The second field is the name, in parentheses, and may contain anything.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return fields if len(fields) > 48 else None


def _has_mark(environment: bytes, wanted: bytes) -> bool:
    environment = b"\0" + environment + b"\0"
    at = environment.find(wanted)
    # The mark itself, or a longer one that begins with it: a worker within a job extends the job's mark.
    return at >= 0 and environment[at + len(wanted) : at + len(wanted) + 1] in (b"\0", b"/", b".")


def _begins_program(pid: int) -> bool:
    """Whether a process whose environment was just read, and empty, has one all the same: within `execve` the
    old one is gone, and the new one is not yet shown. On a busy machine that lasts for some 10 ms."""
    stat = _stat(pid)
    if stat is None or int(stat[6]) & _PF_EXITING_OR_KTHREAD:
        return False
    begin, end = int(stat[47]), int(stat[48])
    return end == 0 or begin != end


def _read(pid: int, name: str, refused: bytes = b"") -> bytes:
    """The content of a file in ``/proc/PID``; `refused` when the process is gone or of another account."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return refused
    try:
        data = b""
        while part := os.read(fd, 1 << 16):
            data += part
        return data
    except OSError:
        return data or refused
    finally:
        os.close(fd)
