"""What a process that ran user code leaves running: how it is found, and how it is ended.

::

    find ──▶ SIGTERM ──▶ up to 3 s ──▶ SIGKILL ──▶ resource trackers a second later

A process that runs user code leads a session, and has a mark in its environment. What it starts is found by
either. Process groups of their own (``timeout``, ``mpirun``, ``bash -m``) stay in the session. What begins a
session of its own (``start_new_session``, daemons) inherits the mark. A daemon that is to outlive its job
begins a session of its own without the mark.

The seconds are for those that end others, as ``mpirun`` ends its ranks. The resource trackers of
multiprocessing and joblib end by themselves once all that use them have ended. Then they remove what those
have left in shared memory. So they are killed last.

Needs ``/proc``. Imported by processes that run user code, when they have started others.
"""

from __future__ import annotations

import os
import time

from queue_eval.marks import STARTED_BY

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    import _signal as signal  # the other imports `enum`

CAN_BE_FOUND = os.path.exists("/proc/self/stat")  # noqa: PTH110 - no pathlib in these processes

TERM_S = 3.0
"""How long a process may take to end after SIGTERM."""

_TRACKERS_S = 1.0
"""How much longer a resource tracker may take."""

_GIVE_UP_S = 5.0
"""A process that lives so long after SIGKILL hangs in the kernel: nobody can end it."""

_STEP_S = (0.01, 0.1)
"""How often those that are to end are looked at: at first, and at last."""

_PR_SET_CHILD_SUBREAPER = 36


class Found:
    """A process that was found; its number alone may be another's by now."""

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
    """Have what user code leaves behind become children of this process, where the system can do that:
    `has_children` then tells of all."""
    try:
        # The inside of ctypes, which takes ten times as long to import.
        import _ctypes as inside

        ctypes: Any = inside  # its annotations are those of Windows
        prctl = ctypes.dlsym(ctypes.dlopen(None, 2), "prctl")
        ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, OSError):  # no Linux, or no ctypes
        pass


def has_children() -> bool:
    """Whether this process has any, dead or alive. One system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # the latter: not on this system
        return False
    return True


def find(mark: str, session: int = 0, spared_group: int = 0) -> dict[int, Found]:
    """The living processes with `mark`, or of `session`; but not this one, nor those of `spared_group`."""
    wanted = f"\0{STARTED_BY}={mark}".encode()
    found: dict[int, Found] = {}
    for pid, stat in _processes():
        group = int(stat[2])
        if stat[0] in b"ZX" or group == spared_group:
            continue
        if (session and int(stat[3]) == session) or (mark and _is_marked(pid, wanted)):
            found[pid] = Found(pid, group, stat[19])
    found.pop(os.getpid(), None)
    return found


def reap_adopted() -> None:
    """Remove dead children that were adopted; nobody else ever asks for their exit status. Assumes: no user
    code runs. What it has started itself is known by the object that holds its number."""
    if not has_children() or os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return
    own = b"%d" % os.getpid()
    dead = {pid for pid, stat in _processes() if stat[0] == b"Z" and stat[1] == own}
    import gc

    # Of subprocess, multiprocessing, loky.
    dead -= {getattr(one, "pid", None) for one in gc.get_objects() if type(one).__name__ == "Popen"}
    for pid in dead:
        try:  # noqa: SIM105
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def dies_with_first_process() -> bool:
    """Whether this process was forked by the first one of a container, which ends with it, as all then do."""
    return os.getppid() == 1 and _read(1, "cmdline") == _read(os.getpid(), "cmdline") != b""


class Ending:
    """Ends what was left running under a mark and in a session.

    `begin`, then `turn` until it says that nothing is left; or `run`, which waits. Assumes: the process that
    had the mark has ended, or is this one, or is a member of `spared_group`.
    """

    def __init__(self, mark: str, session: int = 0, spared_group: int = 0) -> None:
        self._what = (mark, session, spared_group)
        self._known: dict[int, Found] = {}
        self._step_s = _STEP_S[0]
        self.next_at = 0.0
        """When to look again (monotonic, s)."""
        self.hung: list[int] = []
        """Those that SIGKILL has not ended."""

    def begin(self) -> bool:
        """Ask all to end; whether there is any."""
        now = time.monotonic()
        self._kill_at = now + TERM_S
        self._look(now)
        return bool(self._known)

    def turn(self, now: float) -> bool:
        """Whether nothing is left."""
        if now < self.next_at:
            return False
        self._known = {pid: one for pid, one in self._known.items() if one.is_alive()}
        if not self._known or now >= self._kill_at:
            self._look(now)
        if not self._known:
            return True
        if now >= self._kill_at + _GIVE_UP_S:
            self.hung = list(self._known)
            return True
        self.next_at = now + self._step_s
        self._step_s = min(1.5 * self._step_s, _STEP_S[1])
        return False

    def hurry(self, kill_at: float) -> None:
        """Kill what is left then (monotonic, s), if that is earlier."""
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
        """Find all, also what those that were found before have started."""
        if not CAN_BE_FOUND:
            return
        known, self._known = self._known, find(*self._what)
        for pid, one in self._known.items():
            if now < self._kill_at:
                if pid not in known:
                    one.send(signal.SIGTERM)
            elif now >= self._kill_at + _TRACKERS_S or not one.is_tracker():
                one.send(signal.SIGKILL)


def _processes() -> list[tuple[int, list[bytes]]]:
    """Number and status of every process that can be seen."""
    if not CAN_BE_FOUND:
        return []
    names = os.listdir("/proc")  # noqa: PTH208
    seen = ((int(name), _stat(int(name))) for name in names if name.isdigit())
    return [(pid, stat) for pid, stat in seen if stat is not None]


def _stat(pid: int) -> list[bytes] | None:
    """Fields of ``/proc/PID/stat`` from the third on: state, parent, group, session, …; the 20th is when it
    started. None when it is gone."""
    # The second is its name, in parentheses, and may hold anything.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return fields if len(fields) > 19 else None


def _is_marked(pid: int, wanted: bytes) -> bool:
    environment = b"\0" + _read(pid, "environ") + b"\0"
    at = environment.find(wanted)
    # Its own, or a longer one: that of what a worker within a job has started, for one.
    return at >= 0 and environment[at + len(wanted) : at + len(wanted) + 1] in (b"\0", b"/", b".")


def _read(pid: int, name: str) -> bytes:
    """Empty when it is gone, or somebody else's."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = b""
        while part := os.read(fd, 1 << 16):
            data += part
        return data
    except OSError:
        return data
    finally:
        os.close(fd)
