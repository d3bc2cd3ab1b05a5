"""Starts, revives and stops the embedded server: a Valkey process that outlives the process that started it.

::

    start ──▶ starting ──▶ running ──▶ stopping ──▶ stopped      the phase, in home/server.json
                              │  kill -9, reboot                 (written before the step is done)
                              ▼
                           (crashed: intended to run, but no process) ──▶ revive, or start

                           (stopped for want of work) ──▶ wake, for a look

**Drivers** start the server (`start_server`), and bring it back when it has crashed (`revive_server`). **The
watcher** (watcher.py) stops a server that was started automatically and is no longer needed. **Users** start
and stop a server by hand; such a server is kept until it is stopped.

Guarantees: at most one server runs on the data of a home. Starting and stopping hold the lock of the home,
and a server holds the lock of `server.alive` for as long as it lives (lock.py). Password, key and data live
as long as the home. Assumes: the file system's locks hold wherever the home is seen, or the file system
reports that it has none.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from queue_eval.errors import ServerError, ServerRefusedError, ServerUnreachableError, UsageError
from queue_eval.server.home import Record, ServerHome
from queue_eval.server.lock import Liveness, find_server, note_end
from queue_eval.server.process import (
    LOOK_LINGER_S,
    check_alone,
    check_space,
    check_unnamed,
    end_by_force,
    end_unreachable,
    is_watched,
    launch,
    shut_down,
    start_watcher,
    wait_for_answer,
)
from queue_eval.server.settings import Network, new_record
from queue_eval.server.watcher import end_script, has_outstanding, is_busy, is_full, visits
from queue_eval.transport.access import (
    ACCESS_FILE,
    WORKER_ACCESS_FILE,
    Access,
    Role,
    entered_home,
    find_access,
    home_folder,
    is_home_named,
    read_access,
    safe_url,
    write_access,
)
from queue_eval.transport.hints import spell_command
from queue_eval.transport.known_homes import adopt
from queue_eval.transport.private_home import check_memory
from queue_eval.transport.wire import ReplyError, Wire


@dataclass(frozen=True)
class ServerState:
    """The state of a home's server.

    `crashed`: it should run, but does not; `stopped`: deliberately, by a user or for want of work;
    `absent`: none was ever started. `url` is safe to show. `pid` is None when the process cannot be seen
    from here. `node` is the name of the machine on which it was started.
    """

    state: Literal["running", "crashed", "stopped", "absent"]
    pid: int | None = None
    url: str | None = None
    node: str | None = None
    started_at: datetime | None = None
    fsync: str | None = None
    keep: bool = False
    tls: bool = False
    unneeded: bool = False
    """Stopped for want of work."""


def open_access(
    url: str | None = None, home: str | Path | None = None, file: str | Path | None = None
) -> Access:
    """The access that `find_access` finds. Starts the embedded server if that is wanted and not running."""
    access = find_access(url, home, file)
    if access is None or (access.home and _is_startable(access.home)):
        start_server(home)
        access = find_access(url, home, file)
        assert access is not None
    return access


def start_server(
    home: str | Path | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    fsync: str | None = None,
    keep: bool = False,
    network: Network | None = None,
    new_secrets: bool = False,
) -> Access:
    """Start the server of `home`, unless it is running; return the access to it once it answers.

    `host` and `port` are those of `Network`, which has more settings. `fsync` is `always` (acknowledged
    writes are on disk) or `everysec` (a power cut may cost two seconds). Settings left out are those of the
    last start; at the first start, a unix socket and `always`. A running server keeps its settings, except
    that `keep` makes it stay until it is stopped. `new_secrets` gives the server new passwords and keys, so
    that copies of earlier access files become worthless; a running server must be stopped before.

    Raises ServerError if it cannot be started, with the end of its log, and UsageError for bad settings.
    """
    network = network or Network(host, port)
    if fsync not in (None, "always", "everysec"):
        raise UsageError(f"unknown fsync {fsync!r}; it is always or everysec")
    if network.port is not None and not 0 <= network.port <= 65535:
        raise UsageError(f"no such port: {network.port}; it is 0 to 65535, 0 for a free one")
    files = ServerHome(entered_home(home))
    if not files.folder.exists():
        if not is_home_named(home):
            check_memory(files.folder)
        check_unnamed(files)  # the folder of a living server was moved: do not make another in its place
    with _disk(files):
        files.create()
    if is_home_named(home):
        adopt(files.folder)
    else:
        entered_home(home)  # check again: the folder may have appeared only now
    with files.lock(), _disk(files):
        record = files.read()
        liveness = find_server(files, record)
        _check_ours(files, record)
        _check_here(files, liveness)
        if record is None and liveness.pid is not None:
            raise ServerRefusedError(
                f"process {liveness.pid} is a server of {files.folder} whose record is gone; end it, then "
                "start anew"
            )
        if record is None or not _is_reachable(files, record, liveness):
            last = record
            with files.key_kept_unless_done():
                record = new_record(files, last, network, fsync, keep, new_secrets)
                launch(files, record, last, liveness.forks)
        elif new_secrets:
            stop = spell_command(_running(files, record), "server", "stop")
            raise UsageError(f"a server that runs keeps its secrets; stop it first with: {stop}")
        else:
            # Under the lock: the watcher counts this connection as a sign that the server is wanted.
            wait_for_answer(files, record)
            record = replace(record, keep=record.keep or keep)
        return _running(files, record)


def revive_server(home: str | Path | None = None) -> Access | None:
    """Restart a crashed server as it was; None if it was stopped on purpose, or last ran elsewhere.

    When several callers do this at once, one restarts it and all get its access. Raises ServerError if it
    does not start, or lives where it cannot be reached.
    """
    files = ServerHome(entered_home(home))
    if not files.record_file.exists():
        return None
    with files.lock(), _disk(files):
        record = files.read()
        if record is None or record.phase in ("stopping", "stopped"):
            return None
        liveness = find_server(files, record)
        _check_here(files, liveness)
        # The lock says that no server lives. If locks are local to each machine, only the server's own
        # machine can tell.
        if liveness.pid is None and not files.is_from_here(record):
            return None
        if not _is_reachable(files, record, liveness):
            check_space(files)
            last, record = record, replace(record, socket=files.choose_socket(), started_at=time.time())
            launch(files, record, last, liveness.forks)
        else:
            wait_for_answer(files, record)
        return _running(files, record)


def wake_server(home: str | Path | None = None) -> bool:
    """Start the server of `home` for a look, if it was stopped for want of work, here and by this user.

    Returns whether it runs now. Its watcher stops it again LOOK_LINGER_S after the last visit, unless a
    client stays connected. Raises ServerError if it does not start.
    """
    files = ServerHome(home_folder(home))
    if not _may_wake(files):
        return False
    with files.lock(), _disk(files):
        record = files.read()
        liveness = find_server(files, record)
        if record is None or liveness.elsewhere or (liveness.pid is None and not _may_wake(files)):
            return False
        awake = replace(record, unneeded=False)
        if liveness.pid is not None:  # another process was faster, or the one that was to stop it has died
            wait_for_answer(files, record)
        else:
            awake = replace(awake, socket=files.choose_socket(), started_at=time.time())
            launch(files, awake, record, liveness.forks)
        _running(files, awake, LOOK_LINGER_S)
        return True


def stop_server(home: str | Path | None = None) -> bool:
    """Stop the server of `home` on purpose. Returns whether it was running. Data, password and key are kept.

    Raises ServerError if it cannot be stopped from here, or if a server lives on that does not hold the lock.
    """
    files = ServerHome(entered_home(home))
    if not files.record_file.exists():
        return False
    with files.lock():
        record = files.read()
        if record is None:
            return False
        liveness = find_server(files, record)
        _check_here(files, liveness)
        if liveness.pid is None:
            check_alone(files, record)  # a living server may own the socket
        return _stop(files, record, liveness.pid)


def stop_if_idle(home: str, seen_visits: int) -> bool:
    """Stop the server if no client has connected since the watcher counted `seen_visits`.

    The watcher becomes this. Returns whether the server was stopped; if not, a new watcher is started.
    """
    files = ServerHome(entered_home(home))
    with files.lock():
        record = files.read()
        pid = find_server(files, record).pid
        if record is None or pid is None:
            return False
        if record.keep:  # since the watcher was set
            start_watcher(files)
            return False
        with Wire(record.socket, record.password) as wire:
            # This connection is one more visit. Any further one came after the watcher's decision: a driver
            # that has just seen the server running must find it running.
            idle = visits(wire) == (1, seen_visits + 1) and not has_outstanding(wire)
        if idle:
            return _stop(files, record, pid, unneeded=True)
        start_watcher(files)
        return False


def restart_stuck(home: str) -> bool:
    """Kill and restart a server on which a script that has written does not end.

    The watcher becomes this. Returns whether the server was stuck. A new watcher is started in any case.
    """
    files = ServerHome(entered_home(home))
    with files.lock(), _disk(files):
        record = files.read()
        pid = find_server(files, record).pid
        if record is None or pid is None:
            return False
        is_stuck = _is_stuck(record)
        if is_stuck:
            end_by_force(files, pid)
            last, record = record, replace(record, started_at=time.time())
            launch(files, record, last, find_server(files, record).forks)
        _running(files, record)
        return is_stuck


def _is_stuck(record: Record) -> bool:
    """Whether the server is busy with a script that only the end of the server can end."""
    try:
        with Wire(record.socket, record.password) as wire:
            try:
                wire.call("PING")
            except ReplyError as error:
                return is_busy(error) and not end_script(wire, error)
    except ReplyError as error:
        return is_full(error)  # the script kept it busy a moment ago, when the watcher decided
    return False


def server_state(home: str | Path | None = None) -> ServerState:
    """The state of the server of `home`, by its files and this machine's processes. Connects to no server."""
    files = ServerHome(entered_home(home))
    record = files.read()
    if record is None:
        return ServerState("absent")
    liveness = find_server(files, record)
    state: Literal["running", "crashed", "stopped"]
    if liveness.pid is not None or liveness.elsewhere:
        state = "running"
    else:
        state = "stopped" if record.phase in ("stopping", "stopped") else "crashed"
    started_at = datetime.fromtimestamp(record.started_at, UTC)
    return ServerState(
        state, liveness.pid, safe_url(record.url), record.node, started_at, record.fsync, record.keep,
        tls=bool(record.host and record.tls_cert), unneeded=state == "stopped" and record.unneeded,
    )  # fmt: skip


@contextmanager
def _disk(files: ServerHome) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into ServerError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise ServerError(
            f"the disk of {files.folder} takes no more ({error.strerror}); free some space there"
        ) from error


def _is_startable(home: Path) -> bool:
    """Whether the access file of `home` is that of an embedded server which this machine may start."""
    files = ServerHome(home)
    record = files.read()
    # True also for a server that lives elsewhere without TCP: start_server refuses it with a clear error.
    return record is not None and (not record.host or not find_server(files, record).elsewhere)


def _may_wake(files: ServerHome) -> bool:
    record = files.read()
    return (
        record is not None
        and record.phase in ("stopping", "stopped")  # if stopping, the caller waits for the lock
        and record.unneeded
        and files.is_from_here(record)
        and files.is_ours()
    )


def _check_here(files: ServerHome, liveness: Liveness) -> None:
    if liveness.elsewhere:
        raise ServerUnreachableError(
            f"the server of {files.folder} runs {liveness.elsewhere}; use it there or by a TCP URL, or, where"
            f" its socket can be reached, by access={str(files.folder / ACCESS_FILE)!r}; or stop it there"
            f"{liveness.remedy}"
        )


def _is_reachable(files: ServerHome, record: Record, liveness: Liveness) -> bool:
    """Whether the server lives and has its socket. A server whose socket is gone is ended."""
    if liveness.pid is not None and files.has_lost_socket(record):
        end_unreachable(files, liveness.pid)
        return False
    return liveness.pid is not None


def _check_ours(files: ServerHome, record: Record | None) -> None:
    """Refuse to take over the access file of another server."""
    access = read_access(files.folder)
    if access and (record is None or not any(password in access.url for password in record.passwords)):
        raise ServerRefusedError(
            f"{files.folder} holds the access file of another server ({safe_url(access.url)});"
            " use another --home, or remove its access.json"
        )


def _running(files: ServerHome, record: Record, linger_s: float = math.inf) -> Access:
    """Record and announce that the server runs: write its access files, and start a watcher if it has none.

    May be called again for a server that runs.
    """
    if record.host:  # a record of an earlier build has the shared key, with which workers could sign
        record = replace(record, key=files.fitting_key(record.key, is_group=True))
    files.write(replace(record, phase="running"))
    ca = Path(record.tls_ca).read_text(encoding="ascii") if record.tls_ca else None
    # Write the workers' file first: a worker that waits for a file takes the driver's if only that is there.
    roles: tuple[Role, ...] = ("worker", "driver") if record.host and record.driver_password else ("driver",)
    for role in roles:
        name = WORKER_ACCESS_FILE if role == "worker" else ACCESS_FILE
        more = ({"ca": ca} if ca else {}) | ({"role": role} if role == "worker" else {})
        own = record.key.encode() if role == "worker" else files.driver_key(record)
        write_access(files.folder, record.url_of(role), own, name=name, embedded=True, **more)
    if roles == ("driver",):
        (files.folder / WORKER_ACCESS_FILE).unlink(missing_ok=True)
    if not is_watched(files, record):
        start_watcher(files, linger_s)
    access = read_access(files.folder)
    assert access is not None
    return access


def _stop(files: ServerHome, record: Record, pid: int | None, *, unneeded: bool = False) -> bool:
    """Stop the server. Returns whether it was running. Assumes the lock of the home."""
    if pid is not None:
        # Write the phase first: clients notice at once that their connections end, and then read it.
        files.write(replace(record, phase="stopping", unneeded=unneeded))
        try:
            shut_down(files, record, pid)
        except ServerError:
            files.write(record)
            raise
    files.clean(record)
    note_end(files)
    files.write(replace(record, phase="stopped", unneeded=unneeded))
    return pid is not None
