"""`current_job` for attempts that run elsewhere: in processes of Ray and RQ, perhaps on another machine."""

from __future__ import annotations

import os
from functools import partial
from time import monotonic, time

from queue_eval.runtime import attempts
from queue_eval.runtime.attempts import Attempt
from queue_eval.runtime.channel import Channel
from queue_eval.runtime.print_teller import PrintTeller, look_at_file
from queue_eval.runtime.temporary import temporary_name

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_teller = PrintTeller()


def to_elsewhere(inside: dict[str, Any] | None, **changes: Any) -> dict[str, Any] | None:
    """`Setup.inside` for another machine, without what holds only here: sockets, and a clock."""
    if inside is None:
        return None
    ends_at = inside.get("ends_at")
    ends_unix_s = None if ends_at is None else time() + ends_at - monotonic()
    return {
        **inside, "notices": None, "mailbox": None, "ends_at": None, "ends_unix_s": ends_unix_s, **changes
    }  # fmt: skip


def from_elsewhere(inside: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What `to_elsewhere` made, as it holds here. Folders that are not seen here are replaced: the one for
    checkpoints by none, since others would look for them in vain."""
    ends_unix_s = inside.get("ends_unix_s")
    folders = _seen(inside.get("folders"))
    return {
        **inside,
        "ends_at": None if ends_unix_s is None else monotonic() + ends_unix_s - time(),
        "checkpoints": _seen(inside.get("checkpoints")),
        "folders": temporary_name() if folders is None else folders,
        "folders_are_own": folders is None,
        **changes,
    }


def begin(inside: dict[str, Any], job: int, number: int, config: bytes, slots: int) -> Attempt:
    """The attempt runs in this thread from now on. It tells what it tells through a `Channel`."""
    channel = Channel(inside["mailbox"], job, number)
    attempt = Attempt(job, number, config, slots, inside, channel)
    attempt.look = channel.look
    attempts.begin(attempt)
    return attempt


def tell_prints(inside: dict[str, Any], job: int, number: int, fd: int) -> Callable[[], None] | None:
    """Tell what this attempt prints into the file `fd` of this process. Returns what ends that; None where
    the worker cannot be told."""
    if not inside.get("live") or inside["mailbox"] is None:
        return None
    # A channel of its own: an attempt that reports need not wait for it, and one that only prints need not
    # know that nobody is reached.
    channel = Channel(inside["mailbox"], job, number, is_quiet=True)
    _teller.watch((job, number), partial(look_at_file, fd), channel)

    def end() -> None:
        _teller.forget((job, number))
        channel.close()

    return end


def end(attempt: Attempt, *, failed: bool) -> None:
    """The run function has returned. What it has told is with the worker when this returns."""
    channel = attempt.send
    attempt.finish()
    if isinstance(channel, Channel):
        channel.finish()
    if attempt.parts and os.getpid() == attempt.pid:
        remove_folder(attempt.inside or {}, attempt.id, attempt.number, failed=failed)


def remove_folder(inside: dict[str, Any], job: int, number: int, *, failed: bool) -> None:
    """Remove the working folder of an attempt, if it has one here that is not to be kept."""
    base = inside.get("folders")
    if base is None or (failed and inside.get("keep_folders")):
        return
    campaign = f"{base}/{inside['campaign']}-{inside['uid']}"
    folder = f"{campaign}/{job}-{number}"
    if not os.path.lexists(folder):
        return
    from contextlib import suppress
    from pathlib import Path

    from queue_eval.runtime.trees import remove_tree

    with suppress(OSError):
        remove_tree(Path(folder))
    if inside.get("folders_are_own"):  # nobody else makes folders there
        with suppress(OSError):
            os.rmdir(campaign)  # noqa: PTH106 - no pathlib in this process
            os.rmdir(base)  # noqa: PTH106


def _seen(folder: str | None) -> str | None:
    """The folder, if this machine has it, or can make it where its home is."""
    if folder is None:
        return None
    place = os.path.dirname(folder)  # noqa: PTH120
    return folder if os.path.isdir(folder) or os.path.isdir(place) else None  # noqa: PTH112
