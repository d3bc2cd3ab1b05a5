"""Finds and removes checkpoints on this machine of jobs that are over, for `doctor --clean`.

Workers remove the checkpoint of a job that has succeeded or was cancelled, and `purge` those of a campaign.
What is left comes from workers that died, or from machines that were away. Of a campaign that was purged,
only the name of its folder is left. So folders of campaigns that the server does not know count only in the
home of that very server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.open import checkpoints_of
from queue_eval.runtime.trees import remove_tree
from queue_eval.transport.link import Link
from queue_eval.views.campaign_list import every_campaign

_OF_CAMPAIGN = re.compile(r"([A-Za-z0-9._-]{1,100})-[0-9a-f]{16}")


class Unneeded(NamedTuple):
    """A folder of checkpoints that nobody needs."""

    folder: Path
    stranger: str | None = None
    """The campaign that it is of, where the server does not know that one, such as a purged one."""


def find_unneeded(link: Link) -> Iterator[Unneeded]:
    """What of this server's campaigns lies on this machine and is not needed at this moment."""
    home = checkpoints_of(link.access.home) if link.access.home and link.access.role != "worker" else None
    # The folders are listed before the campaigns: one that begins meanwhile is in neither list.
    strangers = {} if home is None else dict(_of_campaigns(home))
    uncertain: set[str] = set()
    for name, meta, _, queue in every_campaign(link, lambda name, _: uncertain.add(name)):
        disk = CheckpointDisk.of(name, meta)
        if disk is None:
            uncertain.add(name)
            continue
        yield from map(Unneeded, disk.remains(queue))
        # Its driver may know this home by another path, or may have had another folder before.
        here = strangers.pop(disk.folder.name, None)
        if home is not None and here is not None and home != disk.base.resolve():
            yield from map(Unneeded, disk.moved_to(home).remains(queue))
    for folder, name in strangers.items():
        if name not in uncertain and home is not None:
            yield Unneeded(home / folder, name)


def remove_unneeded(link: Link) -> list[str]:
    """Remove what is not needed now. Returns what cannot be removed, with the reasons."""
    failed = []
    for unneeded in find_unneeded(link):
        try:
            remove_tree(unneeded.folder)
        except OSError as error:
            failed.append(f"{unneeded.folder}: {error.strerror or error}")
    return failed


def _of_campaigns(base: Path) -> Iterator[tuple[str, str]]:
    """The folders of campaigns in this one, and the name of each campaign."""
    try:
        paths = sorted(base.iterdir())
    except OSError:
        return
    for path in paths:
        match = _OF_CAMPAIGN.fullmatch(path.name)
        if match is not None and path.is_dir() and not path.is_symlink():
            yield path.name, match[1]
