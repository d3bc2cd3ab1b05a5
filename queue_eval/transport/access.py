"""The access file: where the server is, and what is needed to join it.

`home/access.json` holds the server's URL, password included, the key that signs what workers run, and
the certificate of the authority that vouches for the server, where that is a private one. Whoever can read
it can run code on every worker, so it is written with mode 0600, is refused when others can read it, and
neither the password nor the key is ever shown: messages use `safe_url`.

A server with a user of its own for workers has a `worker-access.json` beside it, whose key verifies and does
not sign. Whichever file a worker is given, it keeps only the verifying half of its key (`verifies_only`).

The file may be replaced while a campaign runs, because the server came back at another address: `renewed`
reads it again.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal
from urllib.parse import urlsplit

from queue_eval.errors import ServerUnreachableError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.model.signing_key import checked_key, is_pair, verifying_half
from queue_eval.transport.private_files import open_private
from queue_eval.transport.private_home import DEFAULT_HOME, enter_home
from queue_eval.transport.urls import SCHEMES, checked_url, safe_url

__all__ = [
    "ACCESS_FILE", "WORKER_ACCESS_FILE", "Access", "Role", "check_build", "checked_url", "entered_home",
    "find_access", "home_folder", "is_home_named", "named_file", "read_access", "renewed", "safe_url",
    "write_access", "write_private",
]  # fmt: skip

ACCESS_FILE = "access.json"
WORKER_ACCESS_FILE = "worker-access.json"

Role = Literal["driver", "worker"]

log = plain(logging.getLogger(__name__))


@dataclass(frozen=True, repr=False)
class Access:
    """A server and the right to use it.

    `key` signs what workers run, or only verifies it; None when this side has none. `home` is the folder
    whose access file gave the URL, None when it came from an argument, the environment or a file named by
    itself. `ca` is the private authority's certificate (PEM). `role` says whose rights these are. `file` is
    the file that was read, and `stamp` its inode, time of change and size at that moment.
    """

    url: str
    key: bytes | None
    home: Path | None
    ca: str | None = None
    role: Role = "driver"
    verifies_only: bool = False
    """Whether this side is a worker: then `key` never has a half that signs, even after `renewed`."""
    is_of_earlier_build: bool = False
    """Whether an earlier build wrote the file, for a group whose workers could sign."""
    file: Path | None = field(default=None, compare=False)
    stamp: tuple[int, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        key = "None" if self.key is None else "<hidden>"
        return f"Access(url={safe_url(self.url)!r}, key={key}, home={self.home!r})"


def home_folder(home: str | Path | None = None) -> Path:
    """The absolute folder of the embedded server: `home`, else $QUEUE_EVAL_HOME, else `.queue_eval` here."""
    return Path(home or os.environ.get("QUEUE_EVAL_HOME") or DEFAULT_HOME).expanduser().resolve()


def is_home_named(home: str | Path | None = None) -> bool:
    """Whether the user names a home: by `home`, or by $QUEUE_EVAL_HOME."""
    return bool(home or os.environ.get("QUEUE_EVAL_HOME"))


def entered_home(home: str | Path | None = None) -> Path:
    """As `home_folder`, for callers that read or write there.

    Raises UsageError for a home that is refused (see `private_home`).
    """
    folder, is_named = home_folder(home), is_home_named(home)
    if not is_named and Path(DEFAULT_HOME).is_symlink():
        raise UsageError(
            f"{Path.cwd() / DEFAULT_HOME} is a symbolic link, which is not followed; if it is your own, "
            "name where it leads to by --home or QUEUE_EVAL_HOME; else remove it"
        )
    enter_home(folder, is_named=is_named)
    return folder


def named_file(file: str | Path | None = None) -> Path | None:
    """The access file that the user names as such: `file`, else $QUEUE_EVAL_ACCESS; None if neither is set.

    Raises UsageError for a URL in its place. The URL is not shown, because it may hold a password.
    """
    named = file or os.environ.get("QUEUE_EVAL_ACCESS")
    if named and str(named).partition(":")[0] in SCHEMES:  # a Path has lost one of its slashes
        raise UsageError("an access file is a path, and a URL is given in its place; give that as the URL")
    return Path(named).expanduser().absolute() if named else None


def find_access(
    url: str | None = None, home: str | Path | None = None, file: str | Path | None = None, *,
    role: Role = "driver",
) -> Access | None:  # fmt: skip
    """The server to use: `file` or `url`, else $QUEUE_EVAL_ACCESS, else $QUEUE_EVAL_URL, else the access
    file in `home`; None if none is named.

    The key is $QUEUE_EVAL_KEY, else the one in the access file used, else in that of `home`. With the role
    `worker` no key that signs is kept, and a home's file for workers is used, if it has one.

    Raises UsageError for a URL that is no server's, and for an access file that cannot be trusted or read;
    ServerUnreachableError if a file is named that is not there.
    """
    if url and file:
        raise UsageError("both an access file and a URL are given; give one of them")
    named = None if url else named_file(file)
    if named is not None:
        access = _read(named, None, role == "worker")
        if access is None:
            raise ServerUnreachableError(
                f"there is no access file {named}; copy it from the home of the server, or name another"
            )
        return access
    url = url or os.environ.get("QUEUE_EVAL_URL")
    own_key = _key_of_environment()
    if url and own_key:
        key = verifying_half(own_key) if role == "worker" else own_key
        return Access(checked_url(url), key, None, verifies_only=role == "worker")
    found = read_access(home, role=role)
    if url:
        only_key = found.key if found else None
        return Access(checked_url(url), only_key, None, verifies_only=role == "worker")
    return found


def _key_of_environment() -> bytes | None:
    text = os.environ.get("QUEUE_EVAL_KEY")
    return None if text is None else checked_key(text, "$QUEUE_EVAL_KEY")


def read_access(home: str | Path | None = None, *, role: Role = "driver") -> Access | None:
    """The access file of `home`, with the key of $QUEUE_EVAL_KEY if that is set; None if there is no file.

    Raises UsageError if others than its owner may read or write it, or if it is malformed.
    """
    folder = entered_home(home)
    if role == "worker":
        found = _read(folder / WORKER_ACCESS_FILE, folder, True)
        if found is not None:
            return found
    return _read(folder / ACCESS_FILE, folder, role == "worker")


def renewed(access: Access) -> Access | None:
    """The file of `access`, read again; None if it has not been replaced since it was read.

    A file that is missing or cannot be read just now counts as not replaced: a shared folder may serve it
    late.
    """
    if access.file is None:
        return None
    try:
        fresh = _read(access.file, access.home, access.verifies_only)
    except UsageError as error:
        log.warning("%s; going on with what it said before", error)
        return None
    return fresh if fresh is not None and fresh.stamp != access.stamp else None


def _read(path: Path, home: Path | None, verifies_only: bool) -> Access | None:
    try:
        # Opened, not only examined by stat: a shared folder may answer stat from a cache, but not open. In a
        # home no symbolic link is followed; a file that the user names may be one.
        with open(path, encoding="utf-8", opener=open_private if home else None) as file:
            # The open file is examined, not the path: so what is checked is what is read.
            status = os.fstat(file.fileno())
            # A user other than root cannot read another account's closed file, unless a mount shows foreign
            # ids.
            is_own = status.st_uid == os.geteuid() or os.geteuid() != 0
            text = file.read() if is_own and not status.st_mode & 0o077 else ""
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"the access file {path} cannot be read ({reason}); mend or replace it") from error
    if not is_own:
        raise UsageError(
            f"the access file {path} belongs to another account (uid {status.st_uid}), which decides where "
            f"it leads; if you trust it, take a copy of your own: install -m 600 {quote(str(path))} COPY"
        )
    if status.st_mode & 0o077:
        raise UsageError(
            f"the access file {path} is open to other users; close it with: chmod 600 {quote(str(path))}"
        )
    content = _parse(path, text)
    url, key = checked_url(content["url"]), _key_of_environment()
    if key is None and content.get("key") is not None:
        key = checked_key(content["key"], f"the access file {path}")
    if key is not None and verifies_only:
        key = verifying_half(key)
    # A server that we start for a group has these users.
    is_for_group = content.get("embedded") is True and urlsplit(url).username in ("driver", "worker")
    return Access(
        url, key, home, content.get("ca"), content.get("role", "driver"), verifies_only,
        is_for_group and (key is None or not is_pair(key)), path,
        (status.st_ino, status.st_mtime_ns, status.st_size),
    )  # fmt: skip


def check_build(access: Access) -> None:
    """Raise UsageError for a file whose key workers could sign with: it was written by an earlier build."""
    if access.is_of_earlier_build:
        raise UsageError(
            f"{access.file} is of an earlier build, whose workers could sign code; start its server once "
            "with this build (queue-eval server start, with its --home), and copy the new access files"
        )


def write_access(
    home: str | Path | None, url: str, key: bytes | None, *, name: str = ACCESS_FILE, **more: Any
) -> None:
    """Replace the access file of `home` (an existing folder), with mode 0600; `more` are further JSON values.

    `key` is text in UTF-8, because users copy it into an environment variable.
    """
    content = {"url": checked_url(url), "key": None if key is None else key.decode(), **more}
    write_private(home_folder(home) / name, json.dumps(content, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace `path` atomically by `text`, mode 0600: a reader sees the old content or the new one."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp's mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # The content is on disk before the file gets its name: a power cut must not leave an empty file
            # there.
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if (
        isinstance(content, dict)
        and isinstance(content.get("url"), str)
        and isinstance(content.get("key"), (str, type(None)))
        and isinstance(content.get("ca"), (str, type(None)))
        and content.get("role", "driver") in ("driver", "worker")
    ):
        return content
    raise UsageError(f'the access file {path} is malformed; it must be JSON like {{"url": "…", "key": "…"}}')
