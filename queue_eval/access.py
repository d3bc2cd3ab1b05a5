"""The access file: where the server is, and what is needed to join it.

`home/access.json` holds the server's URL, password included, and the key that signs code sent by value.
Whoever can read it can run code on every worker, so it is written with mode 0600, is refused when others
can read it, and neither the password nor the key is ever shown: messages use `safe_url`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from queue_eval.errors import UsageError

ACCESS_FILE = "access.json"
SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True, repr=False)
class Access:
    """A server and the right to use it.

    `key` signs code that travels by value; None when this side has none. `home` is the folder whose access
    file gave the URL, None when it came from an argument or the environment.
    """

    url: str
    key: bytes | None
    home: Path | None

    def __repr__(self) -> str:
        key = "None" if self.key is None else "<hidden>"
        return f"Access(url={safe_url(self.url)!r}, key={key}, home={self.home!r})"


def home_folder(home: str | Path | None = None) -> Path:
    """The absolute folder of the embedded server: `home`, else $QUEUE_EVAL_HOME, else `.queue_eval` here."""
    return Path(home or os.environ.get("QUEUE_EVAL_HOME") or ".queue_eval").expanduser().resolve()


def find_access(url: str | None = None, home: str | Path | None = None) -> Access | None:
    """The server to use: `url`, else $QUEUE_EVAL_URL, else the access file in `home`; None if none is named.

    The key is $QUEUE_EVAL_KEY, else the one in the access file of `home`, if there is one.

    Raises UsageError for a URL that is no server's, and for an access file that cannot be trusted or read.
    """
    url = url or os.environ.get("QUEUE_EVAL_URL")
    own_key = os.environ.get("QUEUE_EVAL_KEY")
    if url and own_key:
        return Access(checked_url(url), own_key.encode(), None)
    found = read_access(home)
    key = own_key.encode() if own_key else (found.key if found else None)
    if url:
        return Access(checked_url(url), key, None)
    return Access(found.url, key, found.home) if found else None


def read_access(home: str | Path | None = None) -> Access | None:
    """What the access file of `home` says, or None if there is none.

    Raises UsageError if others than its owner may read or write it, or if it is malformed.
    """
    folder = home_folder(home)
    path = folder / ACCESS_FILE
    try:
        with path.open(encoding="utf-8") as file:
            # The open file is asked, not the path: what is judged is what is read.
            mode = os.fstat(file.fileno()).st_mode
            text = "" if mode & 0o077 else file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"the access file {path} cannot be read ({reason}); mend or replace it") from error
    if mode & 0o077:
        raise UsageError(
            f"the access file {path} is open to other users; close it with: chmod 600 {quote(str(path))}"
        )
    url, key = _parse(path, text)
    return Access(checked_url(url), None if key is None else key.encode(), folder)


def write_access(home: str | Path | None, url: str, key: bytes | None, **more: Any) -> None:
    """Replace the access file of `home` (an existing folder), with mode 0600; `more` are further JSON values.

    `key` is text in UTF-8: it must survive being copied into an environment variable.
    """
    content = {"url": checked_url(url), "key": None if key is None else key.decode(), **more}
    write_private(home_folder(home) / ACCESS_FILE, json.dumps(content, indent=2) + "\n")


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


def safe_url(url: str) -> str:
    """`url` for messages: with its password, in the user part or the query, replaced by `***`.

    A malformed URL may lose more than its password, never less.
    """
    url = re.sub(r"(://[^:/?#@]*:).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)


def checked_url(url: str) -> str:
    """`url`, or UsageError unless it is a server's."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        wanted = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"not a server URL: {safe_url(url)!r}; it must start with one of {wanted}")
    try:
        urlsplit(url).port  # noqa: B018 - reading it checks it
    except ValueError:
        raise UsageError(f"not a server URL: {safe_url(url)!r}; its port must be a number") from None
    return url


def _parse(path: Path, text: str) -> tuple[str, str | None]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if isinstance(content, dict):
        url, key = content.get("url"), content.get("key")
        if isinstance(url, str) and (key is None or isinstance(key, str)):
            return url, key
    raise UsageError(f'the access file {path} is malformed; it must be JSON like {{"url": "…", "key": "…"}}')
