"""The processes of an embedded server: starts it, waits for its answer, shuts it down, starts its watcher.

All functions but `wait_for_answer` assume that the caller holds the lock of the home.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from queue_eval.errors import ServerError, ServerRefusedError, ServerUnreachableError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.machine import birth_of, born_now, is_alive
from queue_eval.marks import unmarked
from queue_eval.server import watcher
from queue_eval.server.home import Record, ServerHome
from queue_eval.server.lock import (
    alive_lock,
    find_server,
    has_data_of,
    is_orphan,
    named_by,
    note_server,
    processes_of,
)
from queue_eval.server.open_files import is_own
from queue_eval.server.programs import server_binary
from queue_eval.server.watcher import end_script, is_busy, is_full
from queue_eval.transport.private_files import open_private
from queue_eval.transport.private_home import close_home
from queue_eval.transport.wire import ForeignPeerError, ReplyError, Wire

log = plain(logging.getLogger(__name__))

ANSWER_TIMEOUT_S = 10.0  # a server that is still reading its log says so, and is waited for
STOP_TIMEOUT_S = 30.0
SCRIPT_PATIENCE_S = 10.0
"""How long a script that has written may take to end by itself when its server is stopped."""

DEFAULT_LINGER_S = 300.0
LOOK_LINGER_S = 10.0
"""How long a server that was started for a look is kept after the last visit, since others may follow."""

_MIN_FREE_BYTES = 2**20
"""A server that ended because its disk was full is started again only when so much is free."""

_ORPHAN_TIMEOUT_S = 5.0
"""How long to wait for a watcher to end a server whose folder was removed. The watcher checks every 2 s, and
the server saves its log first."""

_LOG_TAIL_BYTES = 2**16
_FULL = "AOF write error"
_TORN = "Truncating the AOF"
_FOREIGN_DATA = ("RDB format version", "Wrong signature")
_BAD_FILE = re.compile(r"Bad file format reading the append only file (\S+?):? ")


def launch(files: ServerHome, record: Record, last: Record | None, forks: tuple[int, ...] = ()) -> None:
    """Start the process and wait for its answer. On failure nothing is left running, and `last` is the record
    again.

    Assumes that `find_server` found no server, only `forks` of a dead one.

    Raises ServerRefusedError when a server lives all the same, ServerError with the server's own message,
    and UsageError for a home that is open to others.
    """
    close_home(files.folder)
    binary = server_binary(with_tls=True) if record.tls_cert else server_binary()
    check_alone(files, record)
    # Change files only with the lock: its holder is the server, or the only starter.
    with alive_lock(files, forks) as handle:
        _launch(binary, files, record, last, handle)


def _launch(binary: Path, files: ServerHome, record: Record, last: Record | None, handle: int) -> None:
    # Record the intention first: if this process dies half-way, the next one looks for the unrecorded server.
    files.write(replace(record, phase="starting"))
    files.prepare_socket(record.socket)
    files.write_config(record)
    files.pid_file.unlink(missing_ok=True)
    log_start = files.log.stat().st_size if files.log.exists() else 0
    since = born_now()
    try:
        # The server detaches itself: it forks and leaves the session. It inherits only the lock.
        subprocess.run(
            [binary, files.config],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            errors="replace",
            timeout=ANSWER_TIMEOUT_S,
            umask=0o077,
            start_new_session=True,
            env=unmarked(),
            pass_fds=[handle],
        )
        wait_for_answer(files, record)
        if (pid := find_server(files, record).pid) is not None:
            note_server(handle, pid)
    except (OSError, subprocess.SubprocessError) as error:
        _end_process(files, since)
        files.clean(record)
        if last:
            files.write(last)  # a crashed server must still count as crashed, not as stopped on purpose
        else:
            files.record_file.unlink()
        message = getattr(error, "stderr", None) or _log_end(files, log_start) or str(error)
        reason = _diagnosis(files, binary, message)
        raise ServerError(f"the server of {files.folder} did not start: {reason}; see {files.log}") from error
    if _TORN in _log_end(files, log_start, lines=50):
        log.warning(
            "the log of the server of %s ended in the middle of a write, which was cut off", files.folder
        )


def wait_for_answer(files: ServerHome, record: Record) -> None:
    """Return once the server answers.

    Raises ServerUnreachableError when it ends or stays silent, and ServerRefusedError when another account
    listens in its place.
    """
    started = time.monotonic()
    deadline, next_look = started + ANSWER_TIMEOUT_S, started + 0.25
    while time.monotonic() < deadline:
        try:
            with Wire(record.socket, record.password) as wire:
                wire.call("PING")
            return
        except ReplyError as error:
            # It is there, though it does nothing for now, or accepts no more clients.
            if str(error).startswith("MISCONF") or is_busy(error) or is_full(error):
                return
            if not str(error).startswith("LOADING"):
                raise ServerUnreachableError(f"the server of {files.folder} answers: {error}") from error
            deadline = time.monotonic() + ANSWER_TIMEOUT_S
        except ForeignPeerError as error:
            raise _foreign(error, record) from error
        except OSError:
            pass  # not listening yet
        if time.monotonic() > next_look:
            if not processes_of(files):
                raise ServerUnreachableError(f"the server of {files.folder} ended at once")
            next_look = time.monotonic() + 0.5
        time.sleep(0.003)
    raise ServerUnreachableError(f"the server of {files.folder} does not answer; see {files.log}")


def shut_down(files: ServerHome, record: Record, pid: int) -> None:
    """Have the server save its log and end; raises ServerError if it does not.

    This works even when clients have taken all connections, or a script loops.
    """
    born = _birth(pid)
    try:
        with Wire(record.socket, record.password, STOP_TIMEOUT_S) as wire:
            _ask_to_shut_down(wire)
    except ReplyError as error:
        if is_full(error):
            _ask_to_end(pid)
        elif is_busy(error):
            log.warning("a script that has written does not end: the server is killed; its log is whole")
            end_by_force(files, pid)
        else:
            raise ServerRefusedError(f"the server refuses to stop: {error}; see {files.log}") from error
    except (FileNotFoundError, ConnectionRefusedError, ForeignPeerError):
        _ask_to_end(pid)  # its socket was removed, or belongs to another process
    except ConnectionError:
        # The server ends the connection to confirm. A full server may end it before it was asked.
        if is_alive(pid, born):
            _ask_to_end(pid)
    except OSError as error:
        raise ServerUnreachableError(
            f"the server does not answer; end process {pid}, see {files.log}"
        ) from error
    _wait_for_end(files, pid, born)


def _ask_to_shut_down(wire: Wire) -> None:
    """Send SHUTDOWN, and end scripts that are in its way.

    Raises ReplyError when a script still keeps the server busy after SCRIPT_PATIENCE_S.
    """
    deadline = time.monotonic() + SCRIPT_PATIENCE_S
    while True:
        try:
            wire.call("SHUTDOWN")
        except ReplyError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            end_script(wire, error)
            time.sleep(0.05)
        else:
            return


def end_by_force(files: ServerHome, pid: int) -> None:
    """Kill a server that a script keeps from ending. Its log stays whole: it has all acknowledged writes, and
    those of a script are logged only when the script has ended."""
    born = _birth(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _wait_for_end(files, pid, born)


def end_unreachable(files: ServerHome, pid: int) -> None:
    """Have a server whose socket is gone save its log and end; raises ServerError if it does not."""
    log.warning("the socket of the server of %s was removed; the server is started anew", files.folder)
    born = _birth(pid)
    _ask_to_end(pid)
    _wait_for_end(files, pid, born)


def _ask_to_end(pid: int) -> None:
    """Send SIGTERM, which the server treats like SHUTDOWN."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def check_alone(files: ServerHome, record: Record) -> None:
    """Refuse to act beside a server that was started for this home's path but does not hold its lock.

    Raises ServerRefusedError.
    """
    check_unnamed(files)
    try:
        with Wire(record.socket, record.password, 1.0):
            pass
    except ReplyError:
        pass  # a server answers
    except ForeignPeerError as error:
        raise _foreign(error, record) from error
    except OSError:
        return
    raise ServerRefusedError(
        f"a server answers at {record.socket}, though {files.alive_file} is not its own: the folder was "
        "replaced, or that file removed, while it lived; end it where it runs first"
    )


def _foreign(error: ForeignPeerError, record: Record) -> ServerRefusedError:
    return ServerRefusedError(f"{error}; remove {record.socket}, and see who may write to its folder")


def check_unnamed(files: ServerHome) -> None:
    """Refuse to act beside a process here that was started as the server of this path.

    Raises ServerRefusedError.
    """
    # The watcher ends a server whose folder was removed, once nobody uses it any more.
    deadline = time.monotonic() + _ORPHAN_TIMEOUT_S
    while (pids := named_by(files)) and is_orphan(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.2)
    if not pids:
        return
    if has_data_of(pids[0], files):
        raise ServerRefusedError(
            f"process {pids[0]} is a server of {files.folder}, though {files.alive_file} is not its own: "
            "that file was removed or replaced while it lived; end that process first"
        )
    raise ServerRefusedError(
        f"process {pids[0]} is a server of a folder that was at {files.folder} and is not any more; "
        "end it, or bring that folder back"
    )


def _end_process(files: ServerHome, since: float) -> None:
    """End what a failed start has left: the servers of this home that were born after `since`."""
    for pid in processes_of(files):
        born = _birth(pid)
        if born < since:
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait_for_end(files, pid, born)


def _birth(pid: int) -> float:
    try:
        return birth_of(pid)
    except psutil.Error:
        return 0.0  # it has ended


def _wait_for_end(files: ServerHome, pid: int, born: float) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while is_alive(pid, born):
        if time.monotonic() > deadline:
            raise ServerError(f"the server does not end; end process {pid}, see {files.log}")
        time.sleep(0.003)


def start_watcher(files: ServerHome, max_linger_s: float = math.inf) -> None:
    """Start the watcher of a server that answers; returns when it is connected and detached.

    The watcher stops a server that nobody has needed for `max_linger_s` at most, unless its record says to
    keep it.

    Raises UsageError if $QUEUE_EVAL_SERVER_LINGER is not a number of seconds.
    """
    linger = os.environ.get("QUEUE_EVAL_SERVER_LINGER") or str(DEFAULT_LINGER_S)
    try:
        linger_s = min(float(linger), max_linger_s)
    except ValueError as error:
        raise UsageError(f"QUEUE_EVAL_SERVER_LINGER is {linger!r}; it must be a number of seconds") from error
    record = files.read()
    if record is not None and record.keep:
        linger_s = math.inf
    # Run it by its path, isolated and without site-packages: with the package it takes ten times the memory.
    command = [sys.executable, "-I", "-S", watcher.__file__, str(files.folder), str(linger_s)]
    with open(files.watcher_log, "ab", opener=open_private) as log:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,  # without it the server only stays longer than it is needed; the log says why
            umask=0o077,
            start_new_session=True,
            env=unmarked(),
        )


def check_space(files: ServerHome) -> None:
    """Raise ServerError when the server has ended because its disk was full, and the disk still is."""
    if _FULL not in _log_end(files, 0):
        return
    free = shutil.disk_usage(files.data).free
    if free < _MIN_FREE_BYTES:
        raise ServerError(
            f"the disk of {files.data} is full ({free // 1024} kB free): the server has ended, and nothing "
            "acknowledged is lost; free some space there"
        )


def is_watched(files: ServerHome, record: Record) -> bool:
    """Whether a watcher is connected to the server; True when the server cannot tell now."""
    try:
        with Wire(record.socket, record.password) as wire:
            clients = wire.call("CLIENT", "LIST")
    except OSError:
        return True
    except ReplyError as error:
        # A busy server cannot tell, but needs its watcher most: look for the watcher's process instead.
        return not is_busy(error) or _has_watcher(files)
    assert isinstance(clients, bytes)
    return f" name={watcher.NAME} ".encode() in clients


def _has_watcher(files: ServerHome) -> bool:
    own = [watcher.__file__, str(files.folder)]
    return any(
        own == (process.info["cmdline"] or ())[-3:-1] and is_own(process.pid)
        for process in psutil.process_iter(["cmdline"])
    )


def _diagnosis(files: ServerHome, binary: Path, message: str) -> str:
    """Why the server does not start, in one line. The server's own message advises repairs that may cut off
    all data, so those cases have a text of ours."""
    bad = _BAD_FILE.search(message)
    if bad is not None and ".incr." in bad[1]:
        file = files.data / "appendonlydir" / bad[1]
        return (
            f"its log {file} is damaged, and nothing of it was deleted; copy {files.data}, then cut off all "
            f"that comes after the damage with: {_repair(binary, file)}"
        )
    if bad is not None or any(sign in message for sign in _FOREIGN_DATA):
        return (
            f"{binary} cannot read the data, which another server program may have written; do not repair "
            "them, start with the settings of before (TLS takes another program) or in another --home"
        )
    return " ".join(message.split())


def _repair(binary: Path, file: Path) -> str:
    for name in ("valkey-check-aof", "redis-check-aof"):
        if on_path := shutil.which(name):
            return f"{on_path} --fix {file}"
    # The server program acts as the repair program when it is called by that name.
    return f"bash -c 'exec -a valkey-check-aof {binary} --fix {file}'"


def _log_end(files: ServerHome, start: int, lines: int = 3) -> str:
    """The last lines that were added to the log since it was `start` bytes long."""
    try:
        with open(files.log, "rb", opener=open_private) as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return " | ".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
