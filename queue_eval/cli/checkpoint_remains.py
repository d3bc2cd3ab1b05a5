"""Finds and removes checkpoints on this machine of jobs that are over, for `doctor --clean`.

Workers remove the checkpoint of a job that has succeeded or was cancelled, and `purge` those of a campaign.
What is left comes from workers that died, or from machines that were away. Where a campaign was purged, only
the name of the folder tells. So folders of campaigns that the server does not know count only in the home of
that very server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from queue_eval.cli.campaigns import every_campaign
from queue_eval.driver.checkpoint_disk import CheckpointDisk
from queue_eval.driver.open import checkpoints_of
from queue_eval.runtime.checkpoints import remove_job
from queue_eval.transport.link import Link

_OF_CAMPAIGN = re.compile(r"([A-Za-z0-9._-]{1,100})-[0-9a-f]{16}")


class Unneeded(NamedTuple):
    """Folders of checkpoints that nobody needs."""

    folders: list[Path]
    size: int
    """Bytes of all files in them."""
    strangers: list[str]
    """Names of campaigns among them that the server does not know, such as purged ones."""

    def remove(self) -> list[str]:
        """Remove them. Returns what cannot be removed, with the reasons."""
        failed = []
        for folder in self.folders:
            try:
                remove_job(folder)
            except OSError as error:
                failed.append(f"{folder}: {error.strerror or error}")
        return failed


def unneeded(link: Link) -> Unneeded:
    """What of this server's campaigns lies on this machine and is not needed."""
    home = link.access.home if link.access.role != "worker" else None
    # The folders are listed before the campaigns: one that begins meanwhile is in neither list.
    strangers = {} if home is None else dict(_of_campaigns(checkpoints_of(home)))
    folders: list[Path] = []
    uncertain: set[str] = set()
    for name, meta, _, queue in every_campaign(link, lambda name, _: uncertain.add(name)):
        disk = CheckpointDisk.of(name, meta)
        if disk is None:
            uncertain.add(name)
            continue
        strangers.pop(disk.folder.resolve(), None)
        folders += disk.remains(queue)
    unknown = {path: name for path, name in strangers.items() if name not in uncertain}
    folders += unknown
    return Unneeded(folders, sum(map(_size, folders)), sorted(unknown.values()))


def _of_campaigns(base: Path) -> Iterator[tuple[Path, str]]:
    """The folders of campaigns in this one, and the name of each campaign."""
    try:
        paths = sorted(base.iterdir())
    except OSError:
        return
    for path in paths:
        match = _OF_CAMPAIGN.fullmatch(path.name)
        if match is not None and path.is_dir() and not path.is_symlink():
            yield path.resolve(), match[1]


def _size(folder: Path) -> int:
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                size += (Path(place) / file).lstat().st_size
            except OSError:
                continue
    return size
