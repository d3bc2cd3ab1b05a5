"""The folder of an embedded server: its files and its record.

    home/                  mode 0700
        access.json        how to join; see access.py
        home.id            the id by which its account knows it; see known_homes.py. Mode 0600
        server.json        the record: settings and phase of the last start, with the secrets; mode 0600
        signing.key        of a server for a group: the key that signs. Mode 0600; workers never read it
        server.lock        held while a process starts or stops the server
        server.alive       locked by the server's process for as long as it lives; names that process
        server.conf        generated at each start, mode 0600: the password must not be seen in `ps`
        server.pid         written by the server itself, removed by it when it ends in order
        tls/               the certificates that `--tls` makes; see certificates.py
        server.sock        the socket; if its path is too long and there is no /proc, it is in a private
                           temporary folder instead
        data/  logs/       the append-only log; never deleted here
        spool/             outcomes that workers could not send to the server, one file for each worker; see
                           workers.spool

The *phase* in the record says what was intended; lock.py says whether the process lives. Together they tell
a crash (it should run, but does not) from a stop.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from queue_eval.errors import ServerError, ServerRefusedError
from queue_eval.function.signing import new_key
from queue_eval.machine import host_id
from queue_eval.model.signing_key import checked_key, is_pair, verifying_half
from queue_eval.server.acl import user_lines
from queue_eval.server.certificates import WILDCARDS
from queue_eval.transport.access import Role, write_private
from queue_eval.transport.private_files import read_private, remove_socket
from queue_eval.transport.private_home import check_owner, make_home
from queue_eval.transport.wire import HAS_SHORT_PATHS, SOCKET_PATH_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

Phase = Literal["starting", "running", "stopping", "stopped"]

ALIVE_FILE = "server.alive"

LOCK_TIMEOUT_S = 60.0

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of a file system that has no locks."""

_TEMPORARY_FOLDER = "queue_eval-{}"

_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "bool": bool, "float": (int, float)}
"""The types of the fields of a record that are not text, by annotation."""

_CONFIG = """\
daemonize yes
set-proc-title no
always-show-logo no
unixsocketperm 700
appendonly yes
aof-load-truncated yes
aof-use-rdb-preamble yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
save ""
maxmemory-policy noeviction
"""


def spool_folder(home: Path) -> Path:
    return home / "spool"


def spool_file(folder: Path, worker: str) -> Path:
    """The file in which a worker keeps outcomes that the server has not acknowledged; see `workers.spool`."""
    return folder / f"{worker}.jsonl"


@dataclass(frozen=True)
class Record:
    """Settings and phase of a server's last start. `host` is "" for a unix socket only.

    `key` is the shared key; for a server of a group it is the public half of `signing.key`.
    `password` is that of the user who may do everything. The passwords of the other users are "" when these
    do not exist. `advertise` is the name in the URL, when it is not `host`. The TLS files are "" without
    TLS; `tls_ca` is also "" for a certificate of a public authority.
    """

    phase: Phase
    node: str  # the name of the machine it was started on, for people only
    socket: str
    password: str = field(repr=False)
    key: str = field(repr=False)
    host: str
    port: int
    fsync: str
    keep: bool
    started_at: float  # seconds since 1970, UTC

    advertise: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    driver_password: str = field(default="", repr=False)
    worker_password: str = field(default="", repr=False)
    allow_rq: bool = False
    unneeded: bool = False
    """With the phase `stopped`: the watcher stopped it for want of work, not a user."""
    host_id: str = ""
    """The machine that it was started on; "" when an older version has started it."""

    @property
    def url(self) -> str:
        """The URL that drivers join by, with the password."""
        return self.url_of("driver")

    def url_of(self, role: Role) -> str:
        if not self.host:
            return f"unix://:{self.password}@{quote(self.socket)}"
        password = self.driver_password if role == "driver" else self.worker_password
        user = f"{role}:{password}" if password else f":{self.password}"
        host = self.advertise or (socket.gethostname() if self.host in WILDCARDS else self.host)
        scheme = "rediss" if self.tls_cert else "redis"
        return f"{scheme}://{user}@{f'[{host}]' if ':' in host else host}:{self.port}/0"

    @property
    def passwords(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.password, self.driver_password, self.worker_password)))


@dataclass(frozen=True)
class ServerHome:
    """The files of one home. It has no state and takes no decisions. `folder` is absolute."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "server.log"

    @property
    def watcher_log(self) -> Path:
        return self.folder / "logs" / "watcher.log"

    @property
    def config(self) -> Path:
        return self.folder / "server.conf"

    @property
    def pid_file(self) -> Path:
        return self.folder / "server.pid"

    @property
    def alive_file(self) -> Path:
        return self.folder / ALIVE_FILE

    @property
    def certificates(self) -> Path:
        return self.folder / "tls"

    @property
    def record_file(self) -> Path:
        return self.folder / "server.json"

    @property
    def signing_key_file(self) -> Path:
        return self.folder / "signing.key"

    def fitting_key(self, key: str, *, is_group: bool, anew: bool = False) -> str:
        """The key for the record: the public half of a group's pair, or the shared key of one user.

        A new key is made when `key` is "" or of the wrong kind, and always with `anew`. Assumes the lock of
        the home. Raises UsageError when a pair must be made without the package cryptography.
        """
        if not is_group:
            if anew:
                self.signing_key_file.unlink(missing_ok=True)
            return key if key and not is_pair(key.encode()) else secrets.token_hex(32)
        if anew or not self.signing_key_file.exists():
            write_private(self.signing_key_file, new_key() + "\n")
        return verifying_half(self._signing_key()).decode()

    @contextmanager
    def key_kept_unless_done(self) -> Iterator[None]:
        """Restore the signing key when the block ends with an error."""
        try:
            before = read_private(self.signing_key_file)
        except FileNotFoundError:
            before = None
        try:
            yield
        except BaseException:
            if before is not None:
                write_private(self.signing_key_file, before.decode())
            raise

    def driver_key(self, record: Record) -> bytes:
        """The key that signs openings."""
        key = record.key.encode()
        return self._signing_key() if is_pair(key) else key

    def _signing_key(self) -> bytes:
        path = self.signing_key_file
        return checked_key(read_private(path).decode(), str(path))

    def create(self) -> None:
        """Make the folders. Raises UsageError for a home that is refused: see private_home.py."""
        make_home(self.folder)
        for folder in (self.data, self.log.parent):
            folder.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock under which this home's server is started and stopped. The kernel frees it when this
        process dies.

        Raises UsageError for another account's home, and ServerError after LOCK_TIMEOUT_S.
        """
        from filelock import FileLock, SoftFileLock, Timeout

        check_owner(self.folder)
        path = self.folder / "server.lock"
        is_soft = not can_lock(self.folder)
        kind = SoftFileLock if is_soft else FileLock
        try:
            with kind(path, LOCK_TIMEOUT_S, mode=0o600, poll_interval=0.01):
                yield
        except Timeout as error:
            remedy = f"; if no such process is there any more, remove {path}" if is_soft else ""
            raise ServerError(
                f"another process has been starting or stopping the server of {self.folder} for"
                f" {LOCK_TIMEOUT_S:.0f} s; see {self.log}{remedy}"
            ) from error

    def read(self) -> Record | None:
        """The record, or None if no server was ever started here. Raises ServerRefusedError if malformed."""
        try:
            content = json.loads(read_private(self.record_file).decode())
            # A record of an older version lacks fields, which then have their defaults.
            defaults = {item.name: item.default for item in fields(Record) if item.default is not MISSING}
            record = Record(**{item.name: (defaults | content)[item.name] for item in fields(Record)})
            if not all(
                isinstance(getattr(record, item.name), _TYPES.get(str(item.type), str))
                for item in fields(Record)
            ):
                raise TypeError
            # The socket is in this home. The recorded path may be another one: a home can be moved or copied.
            own = record.socket if self._is_temporary(record.socket) else str(self.folder / "server.sock")
            return replace(record, socket=own)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ServerRefusedError(
                f"{self.record_file} is malformed; remove it, and access.json beside it, to start anew"
            ) from error

    def write(self, record: Record) -> None:
        write_private(self.record_file, json.dumps(asdict(record), indent=2) + "\n")

    def write_config(self, record: Record) -> None:
        settings: dict[str, object] = {
            "dir": self.data,
            "logfile": self.log,
            "pidfile": self.pid_file,
            "unixsocket": self._path_to_bind(record),
            "requirepass": record.password,
            "appendfsync": record.fsync,
            # With TLS, no port listens without it.
            "port": record.port if record.host and not record.tls_cert else 0,
        }
        if record.host:
            settings["bind"] = record.host
        if record.host and record.tls_cert:
            settings |= {
                "tls-port": record.port,
                "tls-cert-file": record.tls_cert,
                "tls-key-file": record.tls_key,
                "tls-auth-clients": "no",
            }
            if record.tls_ca:
                settings["tls-ca-cert-file"] = record.tls_ca
        lines = [f"{name} {_quoted(str(value))}" for name, value in settings.items()]
        if record.driver_password:
            passwords = {"driver": record.driver_password, "worker": record.worker_password}
            lines += user_lines(passwords, allow_rq=record.allow_rq)
        write_private(self.config, _CONFIG + "\n".join(lines) + "\n")

    def is_ours(self) -> bool:
        """Whether this account has started the server."""
        return self.record_file.stat().st_uid == os.getuid()

    def is_from_here(self, record: Record) -> bool:
        """Whether the server was last started on this machine."""
        return record.host_id == host_id() if record.host_id else record.node == this_node()

    def has_lost_socket(self, record: Record) -> bool:
        """Whether the socket of a server that has answered is gone, as when a temporary folder is cleaned."""
        return record.phase != "starting" and not Path(record.socket).exists()

    def choose_socket(self) -> str:
        """A path for the socket: in home, if a path of that length can be reached here (see `short_path`).

        Else a shorter path, in a folder that only this user can enter.
        """
        path = self.folder / "server.sock"
        if HAS_SHORT_PATHS or len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return str(path)
        folder = Path(tempfile.gettempdir()) / self._temporary_name
        if len(os.fsencode(folder / "server.sock")) > SOCKET_PATH_LIMIT:
            folder = Path("/tmp") / folder.name  # noqa: S108 - its owner and mode are checked below
        return str(folder / "server.sock")

    @property
    def _temporary_name(self) -> str:
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return _TEMPORARY_FOLDER.format(digest)

    def _is_temporary(self, socket_path: str) -> bool:
        """Whether `choose_socket` gives this recorded path when the one in home is too long."""
        path = Path(socket_path)
        return path.name == "server.sock" and path.parent.name == self._temporary_name

    def _path_to_bind(self, record: Record) -> str:
        """The path of the socket as the server binds it: short enough for the kernel."""
        if len(os.fsencode(record.socket)) <= SOCKET_PATH_LIMIT:
            return record.socket
        return os.path.relpath(record.socket, self.data.resolve())  # the server's working directory

    def prepare_socket(self, path: str) -> None:
        """Make the private folder for a socket that is not in home.

        Raises ServerRefusedError if that name is taken by anything but a private folder of this user.
        """
        folder = Path(path).parent
        if folder == self.folder:
            return
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ServerRefusedError(
                f"{folder} is not a private folder of this user; remove it, or use a shorter --home"
            )

    def clean(self, record: Record) -> None:
        """Remove the pid file and socket of a server that has ended; its data and settings stay."""
        self.pid_file.unlink(missing_ok=True)
        remove_socket(Path(record.socket))
        # The private folder of a socket that is not in home stays: nobody else may take its name.


def can_lock(folder: Path) -> bool:
    """Whether the file system of this folder supports locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(handle)
    return True


def this_node() -> str:
    """The name of this machine."""
    return socket.gethostname()


def _quoted(value: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(letter, letter) for letter in value) + '"'
