"""The watcher: keeps an embedded server usable, and stops one that nobody needs any more.

It is a process of its own, which needs no driver to stay alive. It is run by its path and without
site-packages, and imports only the standard library and `queue_eval.transport.wire`: so it takes just a few
megabytes. It holds one connection for life. When that ends, the server has ended, by whatever cause.

It takes no final decision: after a quiet time it becomes `queue_eval.server.lifecycle.stop_if_idle`, which
checks again under the lock of the home. For a server that is kept until it is stopped, that time is endless.

====================================  =====================================================================
the server has                        what the watcher does
====================================  =====================================================================
a script that has run for 60 s        ends it; a script that has written only ends with its process, so the
                                      watcher becomes `queue_eval.server.lifecycle.restart_stuck`
TCP clients that show no password     drops them after 10 s, or after 1 s while connections are scarce
====================================  =====================================================================

Quiet means: no other client is connected, none has come and gone, and no campaign has outstanding jobs. The
watcher ends a server whose folder was removed as soon as no other client is connected.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress

_IMPORT_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
if __name__ == "__main__":  # run by its path: nothing but the standard library can be imported yet
    sys.path.append(_IMPORT_ROOT)

from queue_eval.transport.wire import ReplyError, Wire  # noqa: E402

NAME = "queue_eval-watcher"
"""The name of the watcher's connection."""

_FOLDER_POLL_S, _SERVER_POLL_S = 2.0, 15.0
"""The longest pause between two checks of the folder, and between two requests to the server."""

SCRIPT_LIMIT_S = 60.0
"""A script that runs for so long is ended. Our own scripts never do: clients wait 10 s for a reply."""

SCRIPT_LIMIT_VARIABLE = "QUEUE_EVAL_SCRIPT_LIMIT"
"""Environment variable with another limit in seconds, for tests."""

_PUBLIC_POLL_S = 5.0
"""The longest pause between two requests to a server that listens to others."""

_LOGIN_TIMEOUT_S, _SCARCE_LOGIN_TIMEOUT_S = 10, 1
"""After how long a client that has shown no password is dropped: in general, and while connections are
scarce."""

_SCARCE_FRACTION = 0.75
"""Connections are scarce when more than this fraction of `maxclients` is used."""

_BUSY = "BUSY "
_FULL = "ERR max number of clients"

_STOP = """
import sys
sys.path.append(sys.argv[1])
from queue_eval.server.lifecycle import stop_if_idle
stop_if_idle(sys.argv[2], int(sys.argv[3]))
"""

_RESTART = """
import sys
sys.path.append(sys.argv[1])
from queue_eval.server.lifecycle import restart_stuck
restart_stuck(sys.argv[2])
"""


def _open_unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


class HomeMark:
    """Detects that a home was removed, or replaced by another one. A folder that cannot be read for other
    reasons counts as neither."""

    def __init__(self, home: str) -> None:
        self._record = f"{home}/server.json"
        self._id_file = f"{home}/home.id"
        self._data = f"{home}/data"
        self._folder, self._secrets = self._look()

    def is_gone(self) -> bool:
        try:
            folder, secrets = self._look()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):
            return False
        return folder != self._folder or not secrets & self._secrets

    def _look(self) -> tuple[tuple[int, int], set[str]]:
        # Another folder may get the same inode number, but each home has its own id and key. It is the same
        # home if either is equal: the key may change, and a home of an earlier build gets its id later.
        status = os.stat(self._data)  # noqa: PTH116 - pathlib costs 1 MB
        with open(self._record, encoding="utf-8", opener=_open_unlinked) as file:
            secrets = {f"key {json.load(file).get('key')}"}
        with suppress(OSError), open(self._id_file, encoding="utf-8", opener=_open_unlinked) as file:
            secrets.add(f"id {file.read(100)}")
        return (status.st_dev, status.st_ino), secrets


def is_busy(error: ReplyError) -> bool:
    """Whether a script keeps the server from doing anything else."""
    return str(error).startswith(_BUSY)


def is_full(error: ReplyError) -> bool:
    """Whether the server accepts no more clients."""
    return str(error).startswith(_FULL)


def end_script(wire: Wire, busy: ReplyError) -> bool:
    """End the script or function that `busy` reports. Returns False when it has written: then only the end of
    the server can end it."""
    kind = "FUNCTION" if "FUNCTION KILL" in str(busy) else "SCRIPT"
    try:
        wire.call(kind, "KILL")
    except ReplyError as error:
        return not str(error).startswith("UNKILLABLE")  # else NOTBUSY: it has ended by itself
    return True


def visits(wire: Wire) -> tuple[int, int]:
    """How many clients are connected now, `wire` included, and how many connections there ever were."""
    info = _facts(wire, "clients") | _facts(wire, "stats")
    return int(info[b"connected_clients"]), int(info[b"total_connections_received"])


def _facts(wire: Wire, section: str) -> dict[bytes, bytes]:
    text = wire.call("INFO", section)
    assert isinstance(text, bytes)
    fields = (line.partition(b":") for line in text.split())
    return {name: value for name, _, value in fields}


def drop_unauthenticated(wire: Wire) -> int:
    """Drop the TCP clients that have shown no password in time. Returns how many there were.

    Assumes: drivers and workers are other users than `default`, as on every server that listens to others.
    So a TCP client that is `default` has not signed in yet, or must not be there.
    """
    facts = _facts(wire, "clients")
    is_scarce = int(facts[b"connected_clients"]) > _SCARCE_FRACTION * int(facts.get(b"maxclients", b"10000"))
    least_s = _SCARCE_LOGIN_TIMEOUT_S if is_scarce else _LOGIN_TIMEOUT_S
    listed = wire.call("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    unauthenticated = [
        client[b"id"].decode() for client in map(_client, listed.splitlines())
        if client[b"user"] == b"default" and b"U" not in client[b"flags"] and int(client[b"age"]) >= least_s
    ]  # fmt: skip
    for number in unauthenticated:
        wire.call("CLIENT", "KILL", "ID", number)
    return len(unauthenticated)


def _client(line: bytes) -> dict[bytes, bytes]:
    return {name: value for name, _, value in (word.partition(b"=") for word in line.split())}


def has_outstanding(wire: Wire) -> bool:
    """Whether any campaign has a job that has not finished."""
    names = wire.call("ZRANGE", "qe:campaigns", "0", "-1")
    assert isinstance(names, list)
    return any(_outstanding(wire, name.decode()) > 0 for name in names)


def _outstanding(wire: Wire, campaign: str) -> int:
    submitted = wire.call("HGET", f"qe:{{{campaign}}}:meta", "last_id")
    finished = wire.call("HLEN", f"qe:{{{campaign}}}:index")
    assert isinstance(finished, int)
    return int(submitted if isinstance(submitted, bytes) else 0) - finished


class Watch:
    """Checks the server until the watcher must act, and remembers what it saw.

    `linger_s`: after so long a quiet time the server is stopped. `is_public`: whether the server listens to
    others than this account, with users other than `default`.
    """

    def __init__(self, wire: Wire, linger_s: float, home: HomeMark, *, is_public: bool) -> None:
        self._wire = wire
        self._linger_s = linger_s
        self._is_kept = linger_s == float("inf")
        self._home = home
        self._is_public = is_public
        self._script_limit_s = float(os.environ.get(SCRIPT_LIMIT_VARIABLE) or SCRIPT_LIMIT_S)
        quarter_s = min(linger_s, self._script_limit_s) / 4
        self._folder_poll_s = min(quarter_s, _FOLDER_POLL_S)
        self._server_poll_s = min(quarter_s, _PUBLIC_POLL_S if is_public else _SERVER_POLL_S)
        self._pid = 0
        with suppress(ReplyError):
            self._pid = int(_facts(wire, "server")[b"process_id"])
        self._busy_since: float | None = None
        self._asked_at = self._quiet_since = time.monotonic()
        self._seen = -1  # visits

    def run(self) -> list[str]:
        """Check until the watcher must act. Returns the program that it must become, and its arguments; []
        when the server has ended."""
        with suppress(ReplyError):  # busy already: then visits are counted from the first reply on
            self._seen = visits(self._wire)[1]
        while not self._wire.closed_within(self._folder_poll_s):
            try:
                if self._is_unneeded():
                    return [_STOP, str(self._seen)]
            except ReplyError as error:
                if not is_busy(error):
                    raise
                if not self._tolerates(error):
                    return [_RESTART]
        return []

    def _is_unneeded(self) -> bool:
        """Whether `linger_s` seconds were quiet. Raises ReplyError while a script keeps the server busy."""
        # A server that is kept until it is stopped is also kept while its folder is gone.
        if not self._is_kept and self._home.is_gone():
            if visits(self._wire)[0] == 1:
                self._wire.call("SHUTDOWN")  # no client can find it any more
            return False
        now = time.monotonic()
        if self._busy_since is None and now - self._asked_at < self._server_poll_s:
            return False
        self._asked_at = now
        clients, total = visits(self._wire)
        self._busy_since = None
        if self._is_public and clients > 1 and drop_unauthenticated(self._wire):
            self._asked_at -= self._server_poll_s  # others may have come: ask again at the next check
        if self._is_kept:
            return False
        if clients > 1 or total != self._seen or has_outstanding(self._wire):
            self._seen, self._quiet_since = total, now
            return False
        return now - self._quiet_since >= self._linger_s

    def _tolerates(self, busy: ReplyError) -> bool:
        """Handle a busy server: end a script that has run for too long. Returns False when only the end of
        the server can end that script."""
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since < self._script_limit_s:
            return True
        self._busy_since = None
        is_ended = end_script(self._wire, busy)
        action = "it was ended" if is_ended else "it has written, so the server is started anew"
        if not is_ended and self._pid and self._home.is_gone():
            # Nobody can start it anew, and nobody else would ever end it. The open connection shows that the
            # pid is still the server's.
            os.kill(self._pid, signal.SIGKILL)
            return True
        say(f"a script has kept the server busy for {self._script_limit_s:g} s; {action}")
        return is_ended


def say(text: str) -> None:
    """Write a line to watcher.log, if its disk is not full."""
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def main(home: str, linger_s: float) -> None:
    with open(f"{home}/server.json", encoding="utf-8", opener=_open_unlinked) as file:
        record = json.load(file)
    # No timeout: a server that is stopped by SIGSTOP or busy is not a server that has ended.
    with Wire(record["socket"], record["password"], timeout_s=None) as wire:
        wire.call("HELLO", "2", "SETNAME", NAME)  # also while a script keeps the server busy
        # Connect before the starter goes on: the next process to check must find a watcher. Mark the home
        # before, too: it may be removed at once, and its server must not go on for ever.
        # A server that an old build has started may have only the user `default`, for all clients.
        is_public = bool(record["host"] and record.get("driver_password"))
        watch = Watch(wire, linger_s, HomeMark(home), is_public=is_public)
        if os.fork():
            os._exit(0)
        os.chdir("/")
        try:
            program = watch.run()
        except OSError:
            return
    if program:
        code, *rest = program
        os.execv(sys.executable, [sys.executable, "-P", "-c", code, _IMPORT_ROOT, home, *rest])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
