"""Checks a home before it is used: it belongs to one account, and no other may read, change or prepare it.

=========================================  ================================================================
a folder that                              is
=========================================  ================================================================
is not there                               made, with mode 0700, an id that is known and a `.gitignore`
belongs to another account                 refused: also for root, whom its owner could lead anywhere by links
others may write to                        refused: nobody knows what they have put there
holds symbolic links, pipes or devices,    refused: they would lead elsewhere what is written there
or secrets that are open to others
the user has not named, and is not known   refused, with the command that adopts it: see `known_homes`
others may read                            closed (0700), and the log says so
others may read, and holds more than a     refused: to close it could lock out accounts that need the rest
home
=========================================  ================================================================
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from queue_eval.errors import UsageError
from queue_eval.foreign_text import plain
from queue_eval.transport.known_homes import ID_FILE, adopt, is_known, make_known, why_forgetful

log = plain(logging.getLogger(__name__))

_ENTRIES = (
    ".gitignore", "access.json", "worker-access.json", "server.json", "server.conf", "server.lock",
    "server.alive", "server.pid", "server.sock", "launch.key", "signing.key", "data", "logs", "spool", "tls",
    "checkpoints", ID_FILE,
)  # fmt: skip
"""The names of all that we make in a home."""

DEFAULT_HOME = ".queue_eval"
"""The home of a working folder, when the user names none. It may hold no more than logs and spools."""

_WALKED = ("data", "logs", "spool", "tls")
"""The folders that are checked down to the last file, because only we write there. In `checkpoints` user
code keeps its own files."""

_MARKS = ("access.json", "worker-access.json", "server.json", "launch.key")
"""A folder with one of these is a home."""

_SECRETS = ("access.json", "server.json", "server.conf", "launch.key", "signing.key", "-key.pem", ID_FILE)
"""Ends of the names of files that hold secrets."""


def enter_home(folder: Path, *, is_named: bool) -> None:
    """Raise UsageError unless `folder` does not exist or is a home that this account may use.

    Called before anything is done in a home. It changes nothing but the id: a caller that keeps files there
    calls `make_home` or `close_home`, too. A home that the user names is known from now on; another one must
    be known already.
    """
    if not os.path.lexists(folder):
        return
    _check_folder(folder)
    if not is_named and not is_known(folder):
        raise UsageError(_why_unknown(folder))
    _check_entries(folder)
    if is_named and (folder.name == DEFAULT_HOME or any((folder / name).exists() for name in _MARKS)):
        adopt(folder)


def check_memory(folder: Path) -> None:
    """Raise UsageError if a home that the user does not name could not be recorded, and so not be known."""
    if why := why_forgetful():
        raise UsageError(
            f"{folder} would not be known again, as {why}; set XDG_STATE_HOME to a folder of yours, or name "
            f"the home each time: --home {quote(str(folder))}, or QUEUE_EVAL_HOME"
        )


def _why_unknown(folder: Path) -> str:
    if why := why_forgetful():
        return (
            f"nobody knows whose home {folder} is, as {why}; set XDG_STATE_HOME to a folder of yours, or, if "
            f"it is your own, name it each time: --home {quote(str(folder))}, or QUEUE_EVAL_HOME"
        )
    return (
        f"{folder} is not known as a home of yours: it may have come with this folder, and would lead to "
        "somebody else's server; if you or an earlier build have made it, adopt it with: queue-eval server "
        f"status --home {quote(str(folder))}; naming it by --home or QUEUE_EVAL_HOME does the same; else "
        "remove it, or name another home"
    )


def make_home(folder: Path) -> None:
    """Make the folder of a home; one that exists is closed to others. Raises UsageError if it is refused.

    A folder that exists does not become known by this: another account may have made it just now, under the
    name that the user gave.
    """
    try:
        make_known(folder)
    except FileExistsError:
        close_home(folder)
    else:
        # Local workers and spools need a home also when the server has a URL. The user is warned now, before
        # the home is refused the next time.
        if folder.name == DEFAULT_HOME and (why := why_forgetful()):
            log.warning(
                "%s will not be known again, as %s; set XDG_STATE_HOME to a folder of yours, or name it each "
                "time, by --home or QUEUE_EVAL_HOME", folder, why,
            )  # fmt: skip
    ignore = folder / ".gitignore"
    if not ignore.exists():  # the user may have made the folder
        ignore.write_text("*\n", encoding="utf-8")


def close_home(folder: Path) -> None:
    """Close a folder to others that is or becomes a home. Raises UsageError for one that is refused."""
    mode = _check_folder(folder)
    _check_entries(folder)
    if not mode & 0o055:
        return
    if not all(_is_ours(path.name) for path in folder.iterdir()):
        raise UsageError(
            f"others can look into {folder} (mode {mode:o}), which holds more than a home; name a folder of "
            f"its own as --home, or close it with: chmod 700 {quote(str(folder))}"
        )
    folder.chmod(0o700)
    log.warning("others could look into %s (mode %o); it is closed now (mode 700)", folder, mode)


def _check_folder(folder: Path) -> int:
    """The folder's mode. Raises UsageError unless only this account can change what is in it."""
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise UsageError(f"{folder} is a symbolic link; name the folder that it leads to as --home")
    check_owner(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{folder} is no folder; name another --home")
    mode = found.st_mode & 0o777
    if mode & 0o022:
        raise UsageError(
            f"{folder} can be changed by others (mode {mode:o}); name a new folder as --home, or see that "
            f"all in it is yours, then close it with: chmod 700 {quote(str(folder))}"
        )
    return mode


def _check_entries(folder: Path) -> None:
    for entry in _entries(str(folder)):
        # The listing already has the kind of each entry. To call stat for thousands of logs would take longer
        # than all else.
        is_plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
        if is_plain and entry.name != "server.sock" and not _is_secret(entry.name):
            continue
        path = quote(entry.path)
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:  # it was replaced just now
            continue
        if stat.S_ISLNK(mode):
            raise UsageError(
                f"{path} is a symbolic link, which would lead elsewhere what is kept in this home; remove it"
            )
        if entry.name == "server.sock":
            if not stat.S_ISSOCK(mode):
                raise UsageError(f"{path} is no socket, but has the name of one; remove it")
        elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UsageError(f"{path} is neither a file nor a folder; remove it")
        if _is_secret(entry.name) and stat.S_ISREG(mode) and mode & 0o077:
            raise UsageError(f"{path} is open to other users; close it with: chmod 600 {path}")


def _entries(folder: str, *, is_ours: bool = False) -> Iterator[os.DirEntry[str]]:
    """All entries of a home, down to the last file in the folders that are ours."""
    try:
        found = list(os.scandir(folder))
    except FileNotFoundError:  # it was removed just now
        return
    for entry in found:
        yield entry
        if entry.is_dir(follow_symlinks=False) and (is_ours or entry.name in _WALKED):
            yield from _entries(entry.path, is_ours=True)


def check_owner(folder: Path) -> None:
    """Raise UsageError if this folder belongs to another account."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise UsageError(
            f"{folder} belongs to another account (uid {owner}); name a folder of your own as --home"
        )


def _is_secret(entry: str) -> bool:
    return entry.endswith(_SECRETS) or entry.startswith("local-access-")


def _is_ours(entry: str) -> bool:
    # A file that is just being written has a name like `.access.json.x1`.
    names = (*(f".{name}." for name in _ENTRIES), "local-access-", ".local-access-")
    return entry in _ENTRIES or entry.startswith(names)
