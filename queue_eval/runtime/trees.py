"""Writes a tree of files to the disk, shares it with a group, measures and removes it. Follows no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_OPEN = 50
"""Folders that are open at a time."""
_OWNERS_RIGHTS = stat.S_IRWXU
_GROUPS_BITS = stat.S_IRGRP | stat.S_IWGRP


def sync_tree(folder: Path, group: int | None) -> int:
    """Write all files and folders to the disk; with `group`, let that group read and change them. Returns the
    bytes of the files. Raises OSError."""
    size = 0
    for path, entry in _walk(folder):
        if stat.S_ISDIR(entry.st_mode) or stat.S_ISREG(entry.st_mode):
            _make_readable(path, entry)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if group is not None:
                    share(fd, group)
                os.fsync(fd)
            finally:
                os.close(fd)
        if stat.S_ISREG(entry.st_mode):
            size += entry.st_size
    return size


def tree_bytes(folder: Path) -> int:
    """The bytes of the files in a tree; of what is removed meanwhile as much as was seen."""
    try:
        return sum(entry.st_size for _, entry in _walk(folder) if stat.S_ISREG(entry.st_mode))
    except OSError:
        return 0


def share(fd: int, group: int) -> bool:
    """Let `group` read and change an open file or folder. Returns whether it belongs to the group now: if it
    cannot, its rights stay as they are."""
    found = os.fstat(fd)
    try:
        if found.st_gid != group:
            os.fchown(fd, -1, group)
        mode = stat.S_IMODE(found.st_mode) | _GROUPS_BITS
        if stat.S_ISDIR(mode | found.st_mode):
            mode |= stat.S_IXGRP | stat.S_ISGID
        elif mode & stat.S_IXUSR:
            mode |= stat.S_IXGRP
        os.fchmod(fd, mode)
    except PermissionError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, also what is read-only. A link is removed, not what it names.
    What is missing is no error: several may remove at a time. Raises the first OSError, after the rest has
    been removed."""
    errors: list[OSError] = []
    try:
        parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        while _remove(folder.name, parent, errors, 0, None) and not errors:
            pass
    finally:
        os.close(parent)
    if errors:
        raise errors[0]


def _remove(name: str, parent: int, errors: list[OSError], depth: int, top: int | None) -> bool:
    """Returns whether something was moved up into the folder `top`, since it lay too deep: each level keeps a
    file open."""
    moved = False
    try:
        if depth > _MOST_OPEN and top is not None:
            os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=top)
            return True
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            os.unlink(name, dir_fd=parent)
            return False
        folder = _open_folder(name, parent)
        try:
            for inner in os.listdir(folder):  # noqa: PTH208 - no path, but an open folder
                moved |= _remove(inner, folder, errors, depth + 1, folder if top is None else top)
        finally:
            os.close(folder)
        if not (moved and top is None):
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        errors.append(error)
    return moved


def _open_folder(name: str, parent: int) -> int:
    """Open a folder, and get the right to read and change it."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        if not hasattr(os, "O_PATH"):
            raise
        # The file descriptor names the folder itself, whatever becomes of its name.
        unread = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{unread}").chmod(_OWNERS_RIGHTS)
        finally:
            os.close(unread)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    found = os.fstat(folder)
    if found.st_uid == os.geteuid() and found.st_mode & _OWNERS_RIGHTS != _OWNERS_RIGHTS:
        os.fchmod(folder, stat.S_IMODE(found.st_mode) | _OWNERS_RIGHTS)
    return folder


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every entry below a folder, and the folder itself last. Folders are made readable."""
    entry = folder.lstat()
    _make_readable(folder, entry)
    for path in sorted(folder.iterdir()):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path)
        else:
            yield path, found
    yield folder, entry


def _make_readable(path: Path, entry: os.stat_result) -> None:
    wanted = stat.S_IRUSR | (stat.S_IXUSR if stat.S_ISDIR(entry.st_mode) else 0)
    if entry.st_mode & wanted != wanted and entry.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(entry.st_mode) | wanted)
