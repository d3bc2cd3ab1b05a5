"""The access file: where the server is, and what is needed to join it.

`home/access.json` holds the server's URL, password included, the key that signs code sent by value, and
the certificate of the authority that vouches for the server, where that is a private one. Whoever can read
it can run code on every worker, so it is written with mode 0600, is refused when others can read it, and
neither the password nor the key is ever shown: messages use `safe_url`.

`worker-access.json` beside it, of a server with a user of its own for workers, is theirs.

The file may be replaced while a campaign runs, because the server came back elsewhere: `renewed` reads it
again.
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

from queue_eval.errors import ServerUnreachableError, UsageError
from queue_eval.foreign_text import plain
from queue_eval.urls import checked_url, safe_url

__all__ = [
    "ACCESS_FILE", "WORKER_ACCESS_FILE", "Access", "Role", "checked_url", "find_access", "home_folder",
    "named_file", "read_access", "renewed", "safe_url", "write_access", "write_private",
]  # fmt: skip

ACCESS_FILE = "access.json"
WORKER_ACCESS_FILE = "worker-access.json"

Role = Literal["driver", "worker"]

log = plain(logging.getLogger(__name__))


@dataclass(frozen=True, repr=False)
class Access:
    """A server and the right to use it.

    `key` signs code that travels by value; None when this side has none. `home` is the folder whose access
    file gave the URL, None when it came from an argument, the environment or a file named by itself. `ca`
    is the private authority's certificate (PEM). `role` is whose rights these are. `file` is where it was
    read, and `stamp` what the file was like then.
    """

    url: str
    key: bytes | None
    home: Path | None
    ca: str | None = None
    role: Role = "driver"
    file: Path | None = field(default=None, compare=False)
    stamp: tuple[int, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        key = "None" if self.key is None else "<hidden>"
        return f"Access(url={safe_url(self.url)!r}, key={key}, home={self.home!r})"


def home_folder(home: str | Path | None = None) -> Path:
    """The absolute folder of the embedded server: `home`, else $QUEUE_EVAL_HOME, else `.queue_eval` here."""
    return Path(home or os.environ.get("QUEUE_EVAL_HOME") or ".queue_eval").expanduser().resolve()


def named_file(file: str | Path | None = None) -> Path | None:
    """The access file that is named by itself: `file`, else $QUEUE_EVAL_ACCESS; None if none is."""
    named = file or os.environ.get("QUEUE_EVAL_ACCESS")
    return Path(named).expanduser().absolute() if named else None


def find_access(
    url: str | None = None, home: str | Path | None = None, file: str | Path | None = None
) -> Access | None:
    """The server to use: `file` or `url`, else $QUEUE_EVAL_ACCESS, else $QUEUE_EVAL_URL, else the access
    file in `home`; None if none is named.

    The key is $QUEUE_EVAL_KEY, else the one in the access file used, else in that of `home`.

    Raises UsageError for a URL that is no server's, and for an access file that cannot be trusted or read;
    ServerUnreachableError if a file is named that is not there.
    """
    if url and file:
        raise UsageError("both an access file and a URL are given; give one of them")
    named = None if url else named_file(file)
    if named is not None:
        access = _read(named, None)
        if access is None:
            raise ServerUnreachableError(
                f"there is no access file {named}; copy it from the home of the server, or name another"
            )
        return access
    url = url or os.environ.get("QUEUE_EVAL_URL")
    own_key = os.environ.get("QUEUE_EVAL_KEY")
    if url and own_key:
        return Access(checked_url(url), own_key.encode(), None)
    found = read_access(home)
    if url:
        return Access(checked_url(url), found.key if found else None, None)
    return found


def read_access(home: str | Path | None = None) -> Access | None:
    """What the access file of `home` says, with the key of $QUEUE_EVAL_KEY if there is one; None if there
    is no file.

    Raises UsageError if others than its owner may read or write it, or if it is malformed.
    """
    folder = home_folder(home)
    return _read(folder / ACCESS_FILE, folder)


def renewed(access: Access) -> Access | None:
    """What the file of `access` says by now, or None if it has not been replaced since it was read.

    A file that is missing or cannot be read for the moment (a shared folder may serve it late) has not.
    """
    if access.file is None:
        return None
    try:
        fresh = _read(access.file, access.home)
    except UsageError as error:
        log.warning("%s; going on with what it said before", error)
        return None
    return fresh if fresh is not None and fresh.stamp != access.stamp else None


def _read(path: Path, home: Path | None) -> Access | None:
    try:
        # Opened, not only looked at: a shared folder may answer a look from memory, but not an opening.
        with path.open(encoding="utf-8") as file:
            # The open file is asked, not the path: what is judged is what is read.
            status = os.fstat(file.fileno())
            text = "" if status.st_mode & 0o077 else file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"the access file {path} cannot be read ({reason}); mend or replace it") from error
    if status.st_mode & 0o077:
        raise UsageError(
            f"the access file {path} is open to other users; close it with: chmod 600 {quote(str(path))}"
        )
    said = _parse(path, text)
    key = os.environ.get("QUEUE_EVAL_KEY") or said.get("key")
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    return Access(
        checked_url(said["url"]), None if key is None else key.encode(), home, said.get("ca"),
        said.get("role", "driver"), path, stamp,
    )  # fmt: skip


def write_access(
    home: str | Path | None, url: str, key: bytes | None, *, name: str = ACCESS_FILE, **more: Any
) -> None:
    """Replace the access file of `home` (an existing folder), with mode 0600; `more` are further JSON values.

    `key` is text in UTF-8: it must survive being copied into an environment variable.
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
            # On disk before it gets its name: a power cut must not leave an empty file under that name.
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
