"""The processes of an embedded server: start it, wait for its answer, shut it down, set its watcher.

All but `wait_for_answer` assume that the caller holds the lock of the home.
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

from queue_eval import server_watch
from queue_eval.errors import ServerError, ServerRefusedError, ServerUnreachableError, UsageError
from queue_eval.server_home import Record, ServerHome
from queue_eval.server_programs import server_binary
from queue_eval.server_watch import ReplyError, Wire

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0  # a server that is still reading its log says so, and is waited for
STOP_TIMEOUT_S = 30.0
DEFAULT_LINGER_S = 300.0
LOOK_LINGER_S = 10.0
"""A server that was started for a look is kept for so long after the last one, since others may follow."""

_ENOUGH_BYTES = 2**20
"""A server that ended for want of space is not started again before so much is free."""

_LOG_BYTES = 2**16
_FULL = "AOF write error"
_TORN = "Truncating the AOF"
_FOREIGN_DATA = ("RDB format version", "Wrong signature")
_BAD_FILE = re.compile(r"Bad file format reading the append only file (\S+?):? ")


def launch(files: ServerHome, record: Record, last: Record | None) -> None:
    """Start the process and wait for its answer. On failure nothing is left running, and `last` still holds.

    Raises ServerError with the words of the server.
    """
    binary = server_binary(with_tls=True) if record.tls_cert else server_binary()
    # The intention comes first: if this process dies half-way, the next one looks for an unknown server.
    files.write(replace(record, phase="starting"))
    files.prepare_socket(record.socket)
    files.write_config(record)
    files.pid_file.unlink(missing_ok=True)
    log_start = files.log.stat().st_size if files.log.exists() else 0
    try:
        # The server detaches itself: it forks and leaves the session. All it keeps of ours is `life`.
        with files.life() as handle:
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
                pass_fds=[handle],
            )
        wait_for_answer(files, record)
    except (OSError, subprocess.SubprocessError) as error:
        _end_process(files)
        files.clean(record)
        if last:
            files.write(last)  # one that had crashed is still crashed: it was not stopped on purpose
        else:
            files.record_file.unlink()
        words = getattr(error, "stderr", None) or _log_end(files, log_start) or str(error)
        raise ServerError(
            f"the server of {files.folder} did not start: {_diagnosis(files, binary, words)}; see {files.log}"
        ) from error
    if _TORN in _log_end(files, log_start, lines=50):
        log.warning(
            "the log of the server of %s ended in the middle of a write, which was cut off", files.folder
        )


def wait_for_answer(files: ServerHome, record: Record) -> None:
    """Return once the server answers; raises ServerUnreachableError when it ends or stays silent."""
    started = time.monotonic()
    deadline, next_look = started + ANSWER_TIMEOUT_S, started + 0.25
    while time.monotonic() < deadline:
        try:
            with Wire(record.socket, record.password) as wire:
                wire.call("PING")
            return
        except ReplyError as error:
            if str(error).startswith(("MISCONF", "BUSY")):  # it does nothing for now, but is there
                return
            if not str(error).startswith("LOADING"):
                raise ServerUnreachableError(f"the server of {files.folder} answers: {error}") from error
            deadline = time.monotonic() + ANSWER_TIMEOUT_S
        except OSError:
            pass  # not listening yet
        if time.monotonic() > next_look:
            if files.search() is None:
                raise ServerUnreachableError(f"the server of {files.folder} ended at once")
            next_look = time.monotonic() + 0.5
        time.sleep(0.003)
    raise ServerUnreachableError(f"the server of {files.folder} does not answer; see {files.log}")


def shut_down(files: ServerHome, record: Record, pid: int) -> None:
    """Have the server save its log and end; raises ServerError if it does not."""
    try:
        with Wire(record.socket, record.password, STOP_TIMEOUT_S) as wire:
            wire.call("SHUTDOWN")
    except ReplyError as error:
        raise ServerRefusedError(f"the server refuses to stop: {error}; see {files.log}") from error
    except ConnectionError:
        pass  # its way of saying yes
    except OSError as error:
        raise ServerUnreachableError(
            f"the server does not answer; end process {pid}, see {files.log}"
        ) from error
    _wait_for_end(files, pid)


def _end_process(files: ServerHome) -> None:
    if (pid := files.search()) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait_for_end(files, pid)


def _wait_for_end(files: ServerHome, pid: int) -> None:
    # Not by the pid alone: where nobody reaps orphans at once, an ended process keeps its pid for seconds.
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while files.is_server(pid):
        if time.monotonic() > deadline:
            raise ServerError(f"the server does not end; end process {pid}, see {files.log}")
        time.sleep(0.003)


def start_watcher(files: ServerHome, most_s: float = math.inf) -> None:
    """Set a watcher on a server that answers; returns when it is connected and on its own.

    The server is kept `most_s` at most when it is not needed.

    Raises UsageError if $QUEUE_EVAL_SERVER_LINGER is not a number of seconds.
    """
    linger = os.environ.get("QUEUE_EVAL_SERVER_LINGER") or str(DEFAULT_LINGER_S)
    try:
        linger_s = min(float(linger), most_s)
    except ValueError as error:
        raise UsageError(f"QUEUE_EVAL_SERVER_LINGER is {linger!r}; it must be a number of seconds") from error
    # By its path, isolated and without site-packages: importing the package would cost it ten times its size.
    command = [sys.executable, "-I", "-S", server_watch.__file__, str(files.folder), str(linger_s)]
    with files.watcher_log.open("ab") as log:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,  # without it the server only stays longer than it is needed; the log says why
            umask=0o077,
            start_new_session=True,
        )


def check_space(files: ServerHome) -> None:
    """Raise ServerError when the server has ended because its disk is full, and that still is."""
    if _FULL not in _log_end(files, 0):
        return
    free = shutil.disk_usage(files.data).free
    if free < _ENOUGH_BYTES:
        raise ServerError(
            f"the disk of {files.data} is full ({free // 1024} kB free): the server has ended, and nothing "
            "acknowledged is lost; free some space there"
        )


def is_watched(record: Record) -> bool:
    """Whether a watcher is connected to the server, as far as that can be asked now."""
    try:
        with Wire(record.socket, record.password) as wire:
            clients = wire.call("CLIENT", "LIST")
    except (OSError, ReplyError):
        return True
    assert isinstance(clients, bytes)
    return f" name={server_watch.NAME} ".encode() in clients


def _diagnosis(files: ServerHome, binary: Path, words: str) -> str:
    """What keeps the server from starting, in one line. Its own words advise repairs that may cut off all."""
    bad = _BAD_FILE.search(words)
    if bad is not None and ".incr." in bad[1]:
        file = files.data / "appendonlydir" / bad[1]
        return (
            f"its log {file} is damaged, and nothing of it was deleted; copy {files.data}, then cut off all "
            f"that comes after the damage with: {_repair(binary, file)}"
        )
    if bad is not None or any(sign in words for sign in _FOREIGN_DATA):
        return (
            f"{binary} cannot read the data, which another server program may have written; do not repair "
            "them, start with the settings of before (TLS takes another program) or in another --home"
        )
    return " ".join(words.split())


def _repair(binary: Path, file: Path) -> str:
    for name in ("valkey-check-aof", "redis-check-aof"):
        if on_path := shutil.which(name):
            return f"{on_path} --fix {file}"
    # The same program: which one it is goes by its name.
    return f"bash -c 'exec -a valkey-check-aof {binary} --fix {file}'"


def _log_end(files: ServerHome, start: int, lines: int = 3) -> str:
    """The last lines that the log has gained since it was `start` bytes long."""
    try:
        with files.log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return " | ".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
