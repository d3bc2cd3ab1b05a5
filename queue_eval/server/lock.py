"""Finds the process that is the server of a home, by the lock on `server.alive` and the holder it names.

====================  =====================================================================================
the lock is           the server is
====================  =====================================================================================
free                  none, whatever the record says. Exception: the process of the pid file, if it is here
                      and in our data folder; then the file that it had locked was removed
held                  the process that the file names, if it lives on this machine; else a process here with
                      our `server.conf` on its command line; else one that cannot be seen from here, on
                      another machine or in another namespace of process ids
held, and the named   dead: only its forks are left, which were rewriting its log
process is dead
not supported by the  as with a lock that is held. Exception: none, if the file names no process, or one of
file system           this machine that is dead
====================  =====================================================================================

A process is identified by machine, pid and birth, as workers are; never by a host name, which cloned nodes
share and laptops change. Command lines and copied files are only hints: a server also belongs to this
account, and has `server.alive` open for writing. A starter takes the lock before the server begins, and
passes it on.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from queue_eval.errors import ServerRefusedError
from queue_eval.machine import birth_of, is_alive, machine_id
from queue_eval.server.home import NO_LOCKS, Record, ServerHome
from queue_eval.server.open_files import SERVER_PROGRAMS, has_open, has_to_write, is_own
from queue_eval.transport.private_files import open_private, read_private

_LOCK_TIMEOUT_S = 5.0
"""How long to wait for the lock. A process that checks it holds it for an instant; forks of a dead server
hold it until they are ended."""


@dataclass(frozen=True)
class Holder:
    """The content of `server.alive`: the process that took the lock."""

    machine: str
    pid: int
    born: float
    role: Literal["starter", "server"]
    node: str
    """For people only."""

    def encode(self) -> bytes:
        return f"{self.machine} {self.pid} {self.born:.2f} {self.role} {self.node}\n".encode()

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        words = text.decode(errors="replace").split()
        try:
            machine, pid, born, role, node = words
            if role not in ("starter", "server"):
                return None
            return cls(machine, int(pid), float(born), "server" if role == "server" else "starter", node)
        except ValueError:
            return None

    @property
    def is_here(self) -> bool:
        return self.machine == machine_id()

    @property
    def lives(self) -> bool:
        return is_alive(self.pid, self.born)


@dataclass(frozen=True)
class Liveness:
    """Whether and where the server of a home lives now."""

    pid: int | None = None
    """The server's process, if it can be seen from here."""
    forks: tuple[int, ...] = ()
    """Processes that are left of a dead server."""
    elsewhere: str = ""
    """Where the server lives, if not here. The text follows "runs" in a sentence."""
    remedy: str = ""
    """With `elsewhere`, when there are no locks: what to do if the server does not live there any more."""


def find_server(files: ServerHome, record: Record | None) -> Liveness:
    """Find the server of this home. Costs little while there is none."""
    lock = _lock_state(files.alive_file)
    if lock == "free":
        return Liveness(_by_pid_file(files))
    holder = _read(files.alive_file)
    if holder is not None and holder.is_here and holder.role == "server":
        if not holder.lives:
            return Liveness(forks=tuple(_forks(files)))
        if is_own(holder.pid) and has_to_write(holder.pid, files.alive_file):
            return Liveness(holder.pid)
    pid = _by_command(files)
    if pid is not None:
        return Liveness(pid)
    if holder is not None and holder.is_here:
        return Liveness()  # the starter has not started the server yet, or died before it did
    if holder is None and lock == "unknown":
        return Liveness()
    return _elsewhere(files, record, holder, can_tell=lock == "held")


def processes_of(files: ServerHome) -> list[int]:
    """Servers here with this home's settings on their command line and its `server.alive` open, the oldest
    first. The oldest one is the server, others are its forks."""
    return [pid for pid in named_by(files) if has_to_write(pid, files.alive_file)]


def named_by(files: ServerHome) -> list[int]:
    """Servers of this account with the path of this home's settings on their command line, the oldest first.

    Processes that only read the settings, or have that path among their arguments, do not count: they have no
    `server.alive` open for writing.
    """
    import psutil

    found = [
        (process.info["create_time"], process.pid)
        for process in psutil.process_iter(["cmdline", "create_time"])
        if str(files.config) in (process.info["cmdline"] or ())
        and is_own(process.pid)
        and has_to_write(process.pid)
    ]
    return [pid for _, pid in sorted(found)]


def is_orphan(pid: int) -> bool:
    """Whether a server's data folder was removed, as far as the system shows."""
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink()).endswith(" (deleted)")
    except OSError:
        return False


@contextmanager
def alive_lock(files: ServerHome, forks: tuple[int, ...] = ()) -> Iterator[int]:
    """Take the lock on `server.alive`; gives the file handle that the server must inherit. The lock is held
    until the last process with that handle has died.

    Assumes the lock of the home, and that `find_server` found no server, only `forks` of a dead one. Raises
    ServerRefusedError when another process holds the lock all the same.
    """
    handle = open_private(str(files.alive_file), os.O_RDWR | os.O_CREAT)
    try:
        _end_forks(forks)
        _take(handle, files)
        _write(handle, os.getpid(), "starter")
        yield handle
    finally:
        os.close(handle)


def note_server(handle: int, pid: int) -> None:
    """Write into `server.alive` that this process is the server."""
    _write(handle, pid, "server")


def note_end(files: ServerHome) -> None:
    """Clear `server.alive` after the server's end. Assumes the lock of the home, and that the server is dead.

    Its forks are ended first: if the file named no holder, a fork with the lock would count as a server
    elsewhere.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while _lock_state(files.alive_file) == "held" and time.monotonic() < deadline:
        _end_forks(_forks(files))
        time.sleep(0.01)
    with suppress(FileNotFoundError), open(files.alive_file, "r+b", opener=open_private) as file:
        file.truncate()


# ----------------------------------------------------------------------------------------------------------


def _lock_state(path: Path) -> Literal["free", "held", "unknown"]:
    try:
        with open(path, "rb", opener=open_private) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "free"
    except OSError as error:
        return "unknown" if error.errno in NO_LOCKS else "held"
    return "free"


def _take(handle: int, files: ServerHome) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in NO_LOCKS:
                return
            if time.monotonic() > deadline:
                pids = ", ".join(map(str, _holders(files.alive_file)))
                holder = f"process {pids}" if pids else "a process that cannot be seen from here"
                raise ServerRefusedError(
                    f"{holder} holds {files.alive_file}: a server of {files.folder}, or its fork; end it"
                ) from error
        time.sleep(0.01)


def _end_forks(forks: Iterable[int]) -> None:
    for pid in forks:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # harmless: a fork writes only a temporary file


def _forks(files: ServerHome) -> list[int]:
    """The forks of a dead server. They are found by the open file: forks change their command lines."""
    import psutil

    found = []
    for pid in _holders(files.alive_file):
        with suppress(psutil.Error):
            is_server = Path(psutil.Process(pid).exe()).name.startswith(SERVER_PROGRAMS)
            if is_server and is_own(pid) and has_to_write(pid, files.alive_file):
                found.append(pid)
    return found


def _holders(path: Path) -> list[int]:
    """Other processes here that have this very file open, as far as the system shows."""
    import psutil

    return [pid for pid in psutil.pids() if pid != os.getpid() and has_open(pid, path)]


def _write(handle: int, pid: int, role: Literal["starter", "server"]) -> None:
    node = "".join(os.uname().nodename.split()) or "?"
    text = Holder(machine_id(), pid, birth_of(pid), role, node).encode()
    os.pwrite(handle, text, 0)
    os.ftruncate(handle, len(text))


def _read(path: Path) -> Holder | None:
    try:
        return Holder.parse(read_private(path))
    except OSError:
        return None


def has_data_of(pid: int, files: ServerHome) -> bool:
    """Whether a process has this home's data folder as its working directory, as its server would."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(files.data)
    except OSError:
        return False


def _by_pid_file(files: ServerHome) -> int | None:
    """The server by its pid file and working directory. Its lock may be on a file that was removed."""
    import psutil

    try:
        pid = int(read_private(files.pid_file))
        is_it = (
            is_own(pid)
            and has_data_of(pid, files)
            and str(files.config) in psutil.Process(pid).cmdline()
        )
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if is_it else None


def _by_command(files: ServerHome) -> int | None:
    """The server by its command line: the process of the pid file, else the oldest one. A starter that was
    killed has written no more than that command line."""
    found = processes_of(files)
    with suppress(FileNotFoundError, ValueError):
        pid = int(read_private(files.pid_file))
        if pid in found:
            return pid
    return found[0] if found else None


def _elsewhere(
    files: ServerHome, record: Record | None, holder: Holder | None, *, can_tell: bool
) -> Liveness:
    if holder is None:
        node = record.node if record is not None else "another machine"
        place = f"on {node}, or in another container or namespace of process ids"
    elif holder.machine.partition(":")[0] == machine_id().partition(":")[0]:
        place = f"in another container or namespace of process ids of this machine, as process {holder.pid}"
    else:
        place = f"on {holder.node}, as process {holder.pid}"
    remedy = "" if can_tell else f"; if no such process is there any more, remove {files.alive_file}"
    return Liveness(elsewhere=place, remedy=remedy)
