"""Temporary folders of attempts and workers: their names, and the removal of those whose owner was killed."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from pathlib import Path

MAILBOX = "mailbox"
"""The socket in the folder of a mailroom: it is bound exactly while its owner lives."""

_MAX_PLACE = 60
"""The address of a unix socket has room for about a hundred bytes."""


def temporary_name() -> str:
    """The name of a temporary folder to be made, short enough for the address of a unix socket in it."""
    # Not by `tempfile`, which first writes a file. By chance: one that others can guess could be theirs.
    place = os.environ.get("TMPDIR", "")
    place = place if 0 < len(os.fsencode(place)) < _MAX_PLACE else "/tmp"  # noqa: S108 - as said
    return f"{place}/qe-{_this_boot() or 'x'}-{os.urandom(8).hex()}"


def remove_abandoned(place: Path) -> None:
    """Remove the mailrooms in `place` whose owners on this machine do not live any more. Raises nothing."""
    import socket
    from contextlib import suppress

    from queue_eval.runtime.trees import remove_tree

    boot = _this_boot()
    if not boot:
        return
    with suppress(OSError):
        for folder in place.glob(f"qe-{boot}-*"):
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                if folder.lstat().st_uid != os.geteuid():
                    continue
                try:
                    probe.connect(str(folder / MAILBOX))
                except ConnectionRefusedError:
                    remove_tree(folder)


def _this_boot() -> str:
    """Tells apart machines that share a folder: the sockets of others look as if nobody listened. "" where
    the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - no pathlib here
            return file.read(8)
    except OSError:
        return ""
