"""The watcher: keeps an embedded server usable, and stops one that nobody needs any more.

A tiny process of its own, run by its path and without site-packages, so that it costs a few megabytes and
needs no driver to stay alive. It holds one connection for life, and so learns of the server's end, by
whatever cause, from the connection's. It imports the standard library and `queue_eval.transport.wire` only,
and decides nothing for good: after a quiet time it becomes `queue_eval.server.lifecycle.stop_if_idle`, which
looks again under the lock of the home. For a server that is kept until it is stopped, that time is endless.

====================================  =====================================================================
the server has                        what the watcher does
====================================  =====================================================================
a script that has run for 60 s        ends it; a script that has written only ends with its process, so the
                                      watcher becomes `queue_eval.server.lifecycle.restart_stuck`
TCP clients that show no password     drops them after 10 s, or after 1 s while connections are scarce
====================================  =====================================================================

Quiet means: no other client is connected, none has come and gone, and no campaign has outstanding jobs. A
server whose folder was removed ends as soon as no other client is connected.
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

NAME = "queue_eval-watcher"  # of its connection

_LOOK_S, _ASK_S = 2.0, 15.0
"""How often it looks whether the folder is there, and asks the server, at most."""

SCRIPT_LIMIT_S = 60.0
"""A script that runs for so long is ended. No call of ours comes near: a reply is lost after ten seconds."""

SCRIPT_LIMIT_VARIABLE = "QUEUE_EVAL_SCRIPT_LIMIT"
"""Another limit, in seconds: for tests."""

_STRANGERS_ASK_S = 5.0
"""How often a server that listens to others is asked, at most."""

_STRANGER_S, _SCARCE_STRANGER_S = 10, 1
"""So old is a client without a password when it is dropped, in general and while connections are scarce."""

_SCARCE = 0.75
"""Connections are scarce beyond this part of `maxclients`."""

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
    """Tells when a home was removed, or another one is in its place. A folder out of reach is neither."""

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
        # The number of a folder is used again, but each home has an id and a key of its own. The key may be
        # changed, and a home of an earlier build is given its id later on.
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
    """Whether the server takes no more clients."""
    return str(error).startswith(_FULL)


def end_script(wire: Wire, busy: ReplyError) -> bool:
    """End what `busy` tells of; False when it has written, so that only the server's end ends it."""
    kind = "FUNCTION" if "FUNCTION KILL" in str(busy) else "SCRIPT"
    try:
        wire.call(kind, "KILL")
    except ReplyError as error:
        return not str(error).startswith("UNKILLABLE")  # else NOTBUSY: it has ended by itself
    return True


def visits(wire: Wire) -> tuple[int, int]:
    """How many clients are connected now, `wire` included, and how many ever were."""
    info = _facts(wire, "clients") | _facts(wire, "stats")
    return int(info[b"connected_clients"]), int(info[b"total_connections_received"])


def _facts(wire: Wire, section: str) -> dict[bytes, bytes]:
    text = wire.call("INFO", section)
    assert isinstance(text, bytes)
    fields = (line.partition(b":") for line in text.split())
    return {name: value for name, _, value in fields}


def drop_strangers(wire: Wire) -> int:
    """Drop the TCP clients that have shown no password in time; how many these were.

    Assumes that drivers and workers are other users than `default`, as on every server that listens to
    others: whoever is `default` over TCP has not said yet who it is, or is not to be there.
    """
    facts = _facts(wire, "clients")
    is_scarce = int(facts[b"connected_clients"]) > _SCARCE * int(facts.get(b"maxclients", b"10000"))
    least_s = _SCARCE_STRANGER_S if is_scarce else _STRANGER_S
    listed = wire.call("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    strangers = [
        client[b"id"].decode() for client in map(_client, listed.splitlines())
        if client[b"user"] == b"default" and b"U" not in client[b"flags"] and int(client[b"age"]) >= least_s
    ]  # fmt: skip
    for number in strangers:
        wire.call("CLIENT", "KILL", "ID", number)
    return len(strangers)


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
    """The watcher's looks at its server, and what it knows between two of them.

    `is_public`: whether the server listens to others than this account, who are not `default`.
    """

    def __init__(self, wire: Wire, linger_s: float, home: HomeMark, *, is_public: bool) -> None:
        self._wire = wire
        self._linger_s = linger_s
        self._is_kept = linger_s == float("inf")
        self._home = home
        self._is_public = is_public
        self._script_limit_s = float(os.environ.get(SCRIPT_LIMIT_VARIABLE) or SCRIPT_LIMIT_S)
        quarter_s = min(linger_s, self._script_limit_s) / 4
        self._look_s = min(quarter_s, _LOOK_S)
        self._ask_s = min(quarter_s, _STRANGERS_ASK_S if is_public else _ASK_S)
        self._pid = 0
        with suppress(ReplyError):
            self._pid = int(_facts(wire, "server")[b"process_id"])
        self._busy_since: float | None = None
        self._asked_at = self._quiet_since = time.monotonic()
        self._seen = -1  # visits

    def run(self) -> list[str]:
        """The program that is to act next, and its argument; nothing once the server has ended."""
        with suppress(ReplyError):  # busy already: then it is counted from the first reply on
            self._seen = visits(self._wire)[1]
        while not self._wire.closed_within(self._look_s):
            try:
                if self._is_unneeded():
                    return [_STOP, str(self._seen)]
            except ReplyError as error:
                if not is_busy(error):
                    raise
                if not self._bear(error):
                    return [_RESTART]
        return []

    def _is_unneeded(self) -> bool:
        """Whether `linger_s` seconds were quiet. Raises ReplyError while a script keeps the server busy."""
        # One that is kept until it is stopped is also kept while its folder is elsewhere.
        if not self._is_kept and self._home.is_gone():
            if visits(self._wire)[0] == 1:
                self._wire.call("SHUTDOWN")  # nobody can come any more
            return False
        now = time.monotonic()
        if self._busy_since is None and now - self._asked_at < self._ask_s:
            return False
        self._asked_at = now
        clients, total = visits(self._wire)
        self._busy_since = None
        if self._is_public and clients > 1 and drop_strangers(self._wire):
            self._asked_at -= self._ask_s  # others may have come in their place: the next look asks again
        if self._is_kept:
            return False
        if clients > 1 or total != self._seen or has_outstanding(self._wire):
            self._seen, self._quiet_since = total, now
            return False
        return now - self._quiet_since >= self._linger_s

    def _bear(self, busy: ReplyError) -> bool:
        """Whether to go on: not when a script has run for too long that only the server's end ends."""
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since < self._script_limit_s:
            return True
        self._busy_since = None
        is_ended = end_script(self._wire, busy)
        deed = "it was ended" if is_ended else "it has written, so the server is started anew"
        if not is_ended and self._pid and self._home.is_gone():
            # Nobody can start it anew, and nobody else would ever end it. The connection says that it lives.
            os.kill(self._pid, signal.SIGKILL)
            return True
        say(f"a script has kept the server busy for {self._script_limit_s:g} s; {deed}")
        return is_ended


def say(words: str) -> None:
    """A line in watcher.log, if its disk takes one."""
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")


def main(home: str, linger_s: float) -> None:
    with open(f"{home}/server.json", encoding="utf-8", opener=_open_unlinked) as file:
        record = json.load(file)
    # No timeout: a server that is stopped by SIGSTOP or busy is not a server that has ended.
    with Wire(record["socket"], record["password"], timeout_s=None) as wire:
        wire.call("HELLO", "2", "SETNAME", NAME)  # also while a script keeps the server busy
        # Connected before the starter is let go: who looks next finds a watcher. The home is marked by then,
        # too: it may be removed at once, and its server must not go on for ever.
        # One that an old build has started may have no users but `default`, for everybody.
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
