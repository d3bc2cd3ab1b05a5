"""Decides which accounts may listen at the socket of a `unix://` URL that a user wrote.

====================================  =====================================================================
an account that listens               is trusted
====================================  =====================================================================
root, or this account                 always
the owner of the socket's folder      if only root, that owner and this account can change what stands there:
                                      that folder, and each one on the way to it, links included, belongs to
                                      one of the three and is writable by its owner only
any other                             never
====================================  =====================================================================

The sticky bit is no help: where everybody may make files, any account may have made the folder. For the
socket of a home, the owner of a folder is not trusted: see `queue_eval.transport.wire.check_peer`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from queue_eval.transport.wire import ForeignPeerError, check_peer, peer_uid

_MAX_LINKS = 40
"""How many symbolic links the kernel follows on one path."""


def check_named_peer(line: socket.socket, path: str) -> None:
    """Raise ForeignPeerError unless the account that listens at `path`, which the user named, is trusted."""
    try:
        check_peer(line, path)
    except ForeignPeerError:
        with suppress(OSError):
            if peer_uid(line) == sole_owner(Path(path)):
                return
        raise


def sole_owner(path: Path) -> int | None:
    """The account that, beside root and this one, alone decides what stands at `path`; None if others may."""
    folders = [folder.stat() for folder in _folders_on_the_way(path)]
    owner = folders[-1].st_uid
    is_closed = all(
        status.st_uid in (0, owner, os.geteuid()) and not status.st_mode & 0o022 for status in folders
    )
    return owner if is_closed else None


def _folders_on_the_way(path: Path) -> Iterator[Path]:
    """Each folder in which the system looks for the next part of `path`; the last one holds its end."""
    place, links = Path("/"), 0
    parts = list(reversed(path.absolute().parts[1:]))
    while parts:
        part = parts.pop()
        if part == "..":
            place = place.parent
            continue
        yield place
        step = place / part
        if not step.is_symlink():
            place = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if target.is_absolute():
            place = Path("/")
        parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
