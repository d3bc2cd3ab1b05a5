"""Records which homes this account knows: a home holds a random id, and the account's state folder has it.

::

    home/home.id ── a random id ── the name of a file in $XDG_STATE_HOME/queue_eval/homes/

A `.queue_eval` that comes with a cloned repository or an archive holds no id that is known here, so it is not
used. The id alone decides, not the path: a home that was moved, or is seen at another path on another host,
stays known. Whoever could copy the id from a home could also copy its password and key, which lie beside it.

Guarantees: a home that `make_known` makes is recorded before it gets its name. So when several processes make
it at once, each of them finds it known. No error is raised where the state folder cannot be written:
`why_forgetful` gives the reason.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from queue_eval.transport.private_files import open_private

ID_FILE = "home.id"

_ID = re.compile(r"[0-9a-f]{32}")
_ID_BYTES = 32

_NOTE_EVERY_S = 24 * 3600.0
"""How often the record of a home in use is dated again."""

_KEEP_S = 180 * 24 * 3600.0
"""How long after its last use the record of a home is kept that is not at its path any more."""


def state_folder() -> Path:
    """Where the ids of known homes are: below $XDG_STATE_HOME, else $HOME, else this account's home folder.

    A relative path, or another account's folder, is not used. Root with a user's $HOME (sudo) would leave
    that user a folder in which only root may write, and would follow links that the user has put there.
    Raises RuntimeError with the reason when no folder can be used.
    """
    belongs_elsewhere = ""
    for base in _state_bases():
        if base.is_absolute():
            folder = base / "queue_eval" / "homes"
            owner = _nearest_owner(folder)
            if owner in (0, os.geteuid()):
                return folder
            belongs_elsewhere = belongs_elsewhere or f"{base} belongs to another account (uid {owner})"
    raise RuntimeError(belongs_elsewhere or "this account has no home folder")


def _state_bases() -> Iterator[Path]:
    if named := os.environ.get("XDG_STATE_HOME", ""):
        yield Path(named)
    for home in (os.environ.get("HOME", ""), _home_of_account()):
        if home:
            yield Path(home) / ".local" / "state"


def _home_of_account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""


def _nearest_owner(folder: Path) -> int:
    """The owner of a folder, or of the nearest existing one above it.

    0 where that cannot be read: then nothing can be made there either.
    """
    for place in (folder, *folder.parents):
        try:
            return place.stat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return 0


def why_forgetful() -> str:
    """Why no home can be recorded in the state folder, with its path; "" if homes can."""
    try:
        folder = state_folder()
    except RuntimeError as error:
        return str(error)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder} cannot be made ({error.strerror})"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


def make_known(folder: Path) -> None:
    """Make the folder of a home, with an id that is recorded. Raises FileExistsError if the path exists."""
    # Checked first: the folder beside it may not be writable, as around a volume of a container.
    if os.path.lexists(folder):
        raise FileExistsError(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unnamed = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))  # its mode is 0700
    own = secrets.token_hex(_ID_BYTES // 2)
    try:
        _write_new(unnamed / ID_FILE, own)
        # The default home lies in the user's project: its secrets must not be committed by `git add .`.
        _write_new(unnamed / ".gitignore", "*\n")
        _record(own, folder)
        if os.path.lexists(folder):  # a rename would replace an empty folder
            raise FileExistsError(folder)
        try:
            unnamed.rename(folder)
        except OSError as error:  # another process was faster
            if os.path.lexists(folder):
                raise FileExistsError(folder) from error
            raise
    except BaseException:
        shutil.rmtree(unnamed, ignore_errors=True)
        _forget(own)
        raise


def is_known(folder: Path) -> bool:
    """Whether the id in a home is recorded by this account."""
    own = _read_id(folder)
    if own is None:
        return False
    try:
        record = state_folder() / own
        found = record.lstat()
    except (OSError, RuntimeError):
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return False
    with suppress(OSError):
        if time.time() - found.st_mtime > _NOTE_EVERY_S or record.read_text() != f"{folder}\n":
            _note_path(record, folder)
    return True


def adopt(folder: Path) -> bool:
    """Record the id of a home, which is given one if it has none. Returns whether it is known now."""
    if is_known(folder):
        return True
    own = _read_id(folder)
    if own is None:
        own = secrets.token_hex(_ID_BYTES // 2)
        # Recorded before it is placed: of several processes that do this, any may be the one whose id stays.
        _record(own, folder)
        with suppress(OSError):
            _place(folder, own)
        placed = _read_id(folder)
        if placed != own:
            _forget(own)
        own = placed
    if own is not None:
        _record(own, folder)
    return is_known(folder)


def _place(folder: Path, own: str) -> None:
    """Give a home its id. If another process is faster, that one's id stays."""
    temporary = folder / f".{ID_FILE}.{secrets.token_hex(4)}"
    _write_new(temporary, own)
    try:
        if _read_id(folder) is None:
            (folder / ID_FILE).unlink(missing_ok=True)
        os.link(temporary, folder / ID_FILE)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        temporary.rename(folder / ID_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def _read_id(folder: Path) -> str | None:
    try:
        with open(folder / ID_FILE, "rb", opener=open_private) as file:
            text = file.read(_ID_BYTES + 2).decode(errors="replace").strip()
    except OSError:
        return None
    # Checked, because it becomes the name of a file.
    return text if _ID.fullmatch(text) else None


def _record(own: str, folder: Path) -> None:
    if why_forgetful():
        return
    with suppress(OSError):
        _write_new(state_folder() / own, f"{folder}\n")
        _prune()


def _note_path(record: Path, folder: Path) -> None:
    """Note where a home was seen last, and when. Only people and `_prune` read it."""
    temporary = record.with_name(f".{record.name}.{secrets.token_hex(4)}")
    _write_new(temporary, f"{folder}\n")
    temporary.rename(record)


def _prune() -> None:
    """Forget homes that were not used for long and are gone from their path. Most of them are of tests."""
    oldest = time.time() - _KEEP_S
    for record in state_folder().iterdir():
        with suppress(OSError, ValueError):
            if not _ID.fullmatch(record.name):
                continue
            if record.stat().st_mtime < oldest and not os.path.lexists(record.read_text().rstrip("\n")):
                record.unlink()


def _forget(own: str) -> None:
    with suppress(OSError, RuntimeError):
        (state_folder() / own).unlink()


def _write_new(path: Path, text: str) -> None:
    handle = open_private(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(handle, "wb") as file:
        file.write(os.fsencode(text))
