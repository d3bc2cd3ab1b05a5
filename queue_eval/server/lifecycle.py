"""The embedded server: a Valkey process that outlives whoever started it.

::

    start ──▶ starting ──▶ running ──▶ stopping ──▶ stopped      the phase, in home/server.json
                              │  kill -9, reboot                 (a phase is written before the deed)
                              ▼
                           (crashed: intended to run, but no process) ──▶ revive, or start

                           (stopped for want of work) ──▶ wake, for a look

**Drivers** start it (`start_server`), and bring it back when it has crashed (`revive_server`). **The
watcher** (watcher.py) stops one that was started automatically and is no longer needed. **Users** start
and stop it by hand; theirs is kept until stopped.

Guaranteed: at most one server runs on the data of a home, because starting and stopping hold the lock of
the home, and a server that of `server.alive` for as long as it lives (server_life.py). Password, key and data
live as long as the home. Assumed: the file system's locks hold wherever the home is seen, or it has none and
says so.
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
from queue_eval.server.lock import Life, look, note_end
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
    """What is known of the server of a home.

    `crashed`: it should run, but does not; `stopped`: deliberately, by a user or for want of work;
    `absent`: none was ever started. `url` is safe to show. `pid` is None for one that lives where its
    process cannot be seen; `node` is what that machine is called.
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
    """The server to use, as `find_access` finds it; the embedded one is started if it is not running."""
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

    `host` and `port` are those of `Network`, which has more. `fsync` is `always` (what was acknowledged is
    on disk) or `everysec` (a power cut may cost two seconds). Settings left out are those of the last
    start, at first a unix socket and `always`; those of a running server stay as they are, except that
    `keep` makes it stay until it is stopped. `new_secrets` gives it new passwords and keys, so that no copy
    of an earlier access file is worth anything; a server that runs is to be stopped before.

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
        check_unnamed(files)  # it was moved or removed: nothing is to be in its way when it comes back
    with _disk(files):
        files.create()
    if is_home_named(home):
        adopt(files.folder)
    else:
        entered_home(home)  # it may have come only now
    with files.lock(), _disk(files):
        record = files.read()
        life = look(files, record)
        _check_ours(files, record)
        _check_here(files, life)
        if record is None and life.pid is not None:
            raise ServerRefusedError(
                f"process {life.pid} is a server of {files.folder} whose record is gone; end it, then start "
                "anew"
            )
        if record is None or not _is_reachable(files, record, life):
            last = record
            with files.key_kept_unless_done():
                record = new_record(files, last, network, fsync, keep, new_secrets)
                launch(files, record, last, life.forks)
        elif new_secrets:
            stop = spell_command(_running(files, record), "server", "stop")
            raise UsageError(f"a server that runs keeps its secrets; stop it first with: {stop}")
        else:
            # Asked under the lock: the watcher takes this visit as a sign that the server is wanted.
            wait_for_answer(files, record)
            record = replace(record, keep=record.keep or keep)
        return _running(files, record)


def revive_server(home: str | Path | None = None) -> Access | None:
    """Restart a crashed server as it was; None if it was stopped on purpose, or last ran elsewhere.

    Of several callers one restarts it and all get its access. Raises ServerError if it does not start, or
    lives where it cannot be reached.
    """
    files = ServerHome(entered_home(home))
    if not files.record_file.exists():
        return None
    with files.lock(), _disk(files):
        record = files.read()
        if record is None or record.phase in ("stopping", "stopped"):
            return None
        life = look(files, record)
        _check_here(files, life)
        # The lock says that nobody lives. Where it is each machine's own, only this one may know.
        if life.pid is None and not files.is_from_here(record):
            return None
        if not _is_reachable(files, record, life):
            check_space(files)
            last, record = record, replace(record, socket=files.choose_socket(), started_at=time.time())
            launch(files, record, last, life.forks)
        else:
            wait_for_answer(files, record)
        return _running(files, record)


def wake_server(home: str | Path | None = None) -> bool:
    """Start the server of `home` for a look, if it was stopped for want of work, here and by this user.

    True if it runs now. Its watcher stops it again LOOK_LINGER_S after the last visit, unless somebody has
    come to stay. Raises ServerError if it does not start.
    """
    files = ServerHome(home_folder(home))
    if not _may_wake(files):
        return False
    with files.lock(), _disk(files):
        record = files.read()
        life = look(files, record)
        if record is None or life.elsewhere or (life.pid is None and not _may_wake(files)):
            return False
        awake = replace(record, unneeded=False)
        if life.pid is not None:  # somebody was faster; or who was to stop it has died
            wait_for_answer(files, record)
        else:
            awake = replace(awake, socket=files.choose_socket(), started_at=time.time())
            launch(files, awake, record, life.forks)
        _running(files, awake, LOOK_LINGER_S)
        return True


def stop_server(home: str | Path | None = None) -> bool:
    """Stop the server of `home` on purpose; True if it was running. Its data, password and key are kept.

    Raises ServerError if it cannot be stopped from here, or if one lives on that is not known by its lock.
    """
    files = ServerHome(entered_home(home))
    if not files.record_file.exists():
        return False
    with files.lock():
        record = files.read()
        if record is None:
            return False
        life = look(files, record)
        _check_here(files, life)
        if life.pid is None:
            check_alone(files, record)  # the socket may be that of a living one
        return _stop(files, record, life.pid)


def stop_if_idle(home: str, seen_visits: int) -> bool:
    """The watcher's last act: stop the server if nobody has come since `seen_visits` were counted."""
    files = ServerHome(entered_home(home))
    with files.lock():
        record = files.read()
        pid = look(files, record).pid
        if record is None or pid is None:
            return False
        if record.keep:  # since the watcher was set
            start_watcher(files)
            return False
        with Wire(record.socket, record.password) as wire:
            # This connection is the one visit more. Any other came after the watcher's decision: a driver
            # that was just told that the server runs must find it running.
            idle = visits(wire) == (1, seen_visits + 1) and not has_outstanding(wire)
        if idle:
            return _stop(files, record, pid, unneeded=True)
        start_watcher(files)
        return False


def restart_stuck(home: str) -> bool:
    """The watcher's last act beside a script that has written and does not end: kill the server, start it.

    True if it was so. Another watcher is set in any case.
    """
    files = ServerHome(entered_home(home))
    with files.lock(), _disk(files):
        record = files.read()
        pid = look(files, record).pid
        if record is None or pid is None:
            return False
        is_stuck = _is_stuck(record)
        if is_stuck:
            end_by_force(files, pid)
            last, record = record, replace(record, started_at=time.time())
            launch(files, record, last, look(files, record).forks)
        _running(files, record)
        return is_stuck


def _is_stuck(record: Record) -> bool:
    """Whether a script keeps the server busy that only the server's end ends."""
    try:
        with Wire(record.socket, record.password) as wire:
            try:
                wire.call("PING")
            except ReplyError as error:
                return is_busy(error) and not end_script(wire, error)
    except ReplyError as error:
        return is_full(error)  # it was stuck a moment ago
    return False


def server_state(home: str | Path | None = None) -> ServerState:
    """What is known of the server of `home`, from its files and this machine's processes; asks no server."""
    files = ServerHome(entered_home(home))
    record = files.read()
    if record is None:
        return ServerState("absent")
    life = look(files, record)
    state: Literal["running", "crashed", "stopped"]
    if life.pid is not None or life.elsewhere:
        state = "running"
    else:
        state = "stopped" if record.phase in ("stopping", "stopped") else "crashed"
    started_at = datetime.fromtimestamp(record.started_at, UTC)
    return ServerState(
        state, life.pid, safe_url(record.url), record.node, started_at, record.fsync, record.keep,
        tls=bool(record.host and record.tls_cert), unneeded=state == "stopped" and record.unneeded,
    )  # fmt: skip


@contextmanager
def _disk(files: ServerHome) -> Iterator[None]:
    """A disk that takes nothing more is a clear error."""
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
    # One that lives elsewhere and cannot be reached from here either is left to start_server's refusal.
    return record is not None and (not record.host or not look(files, record).elsewhere)


def _may_wake(files: ServerHome) -> bool:
    record = files.read()
    return (
        record is not None
        and record.phase in ("stopping", "stopped")  # the former: wait for the lock of who stops it
        and record.unneeded
        and files.is_from_here(record)
        and files.is_ours()
    )


def _check_here(files: ServerHome, life: Life) -> None:
    if life.elsewhere:
        raise ServerUnreachableError(
            f"the server of {files.folder} runs {life.elsewhere}; use it there or by a TCP URL, or, where its"
            f" socket can be reached, by access={str(files.folder / ACCESS_FILE)!r}; or stop it there"
            f"{life.remedy}"
        )


def _is_reachable(files: ServerHome, record: Record, life: Life) -> bool:
    """Whether the server lives; one that nobody can reach any more is ended."""
    if life.pid is not None and files.has_lost_socket(record):
        end_unreachable(files, life.pid)
        return False
    return life.pid is not None


def _check_ours(files: ServerHome, record: Record | None) -> None:
    """Refuse to take over the access file of another server."""
    access = read_access(files.folder)
    if access and (record is None or not any(password in access.url for password in record.passwords)):
        raise ServerRefusedError(
            f"{files.folder} holds the access file of another server ({safe_url(access.url)});"
            " use another --home, or remove its access.json"
        )


def _running(files: ServerHome, record: Record, linger_s: float = math.inf) -> Access:
    """Record and announce that the server runs. Also right after it was so already."""
    if record.host:  # else of an earlier build: its workers could sign
        record = replace(record, key=files.fitting_key(record.key, is_group=True))
    files.write(replace(record, phase="running"))
    ca = Path(record.tls_ca).read_text(encoding="ascii") if record.tls_ca else None
    # That of workers first: a worker that waits for a file in this home takes the other where it is alone.
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
    """Stop under the lock; True if it was running."""
    if pid is not None:
        # Written first: clients notice the end of their connections at once, and must read "stopped".
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
