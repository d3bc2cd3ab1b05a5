"""The checkpoints of one campaign that lie on this machine: where they are, and which nobody needs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.expiry import Expired
from queue_eval.campaign.keys import Keys, is_campaign_name
from queue_eval.campaign.paging import pages
from queue_eval.driver.worker_logs import remove_outputs
from queue_eval.foreign_text import plain
from queue_eval.model.codec import decode
from queue_eval.model.states import State
from queue_eval.runtime.checkpoints import campaign_folder, job_folder
from queue_eval.runtime.trees import remove_tree
from queue_eval.transport.link import Link

log = plain(logging.getLogger(__name__))

_IDS_PER_LOOK = 50
"""How many jobs are looked at at a time. Little time passes so until the last of them is removed: in it the
user may `retry` one of them."""

_UID = re.compile(r"[0-9a-f]{1,64}")


class CheckpointDisk:
    """The folder of a campaign's checkpoints on this machine. It may not exist.

    `keeps`: the last checkpoint of a job that has succeeded is wanted.
    """

    def __init__(self, base: Path, campaign: str, uid: str, *, keeps: bool) -> None:
        self._base = base
        self._campaign = campaign
        self._uid = uid
        self._keeps = keeps

    @classmethod
    def of(cls, campaign: str, meta: Mapping[str, bytes]) -> CheckpointDisk | None:
        """As the meta of a campaign says. None when it names no folder: an earlier version wrote it."""
        uid = meta.get("uid", b"").decode(errors="replace")
        try:
            options = decode(meta["options"])
            base, keeps = options["checkpoints"] or options["checkpoints_home"], options["keep_checkpoints"]
        except (ValueError, TypeError, LookupError):
            return None
        is_sound = isinstance(base, str) and Path(base).is_absolute() and is_campaign_name(campaign)
        # The uid becomes part of a path in which things are removed.
        if not is_sound or not _UID.fullmatch(uid):
            return None
        return cls(Path(base), campaign, uid, keeps=keeps is True)

    @property
    def base(self) -> Path:
        return self._base

    def moved_to(self, base: Path) -> CheckpointDisk:
        """The same campaign in another base folder."""
        return CheckpointDisk(base, self._campaign, self._uid, keeps=self._keeps)

    @property
    def folder(self) -> Path:
        """The folder of the campaign."""
        return campaign_folder(self._base, self._campaign, self._uid)

    def find(self, job_id: int, attempt: int, save: int) -> Path | None:
        """This checkpoint of a job, if it is here."""
        path = job_folder(self._base, self._campaign, self._uid, job_id) / f"{attempt}-{save}"
        return path if _is_folder(path) else None

    def remains(self, queue: CampaignCommands) -> Iterator[Path]:
        """The folders of jobs that are over and need no checkpoint: cancelled ones, and succeeded ones unless
        the campaign keeps theirs. A failed job keeps its checkpoint, for `retry`."""
        for page in pages(self._ids(), _IDS_PER_LOOK):
            index = dict(zip(page, queue.index_of(page), strict=True))
            entries = queue.entries(sorted(entry for entry in index.values() if entry is not None))
            states = {entry.entry: entry.state for entry in entries}
            for job_id, entry in index.items():
                state = states.get(entry or "")
                if state is State.CANCELLED or (state is State.SUCCEEDED and not self._keeps):
                    yield job_folder(self._base, self._campaign, self._uid, job_id)

    def sweep(self, queue: CampaignCommands) -> None:
        """Remove what `remains`. Costs no call to the server where the campaign has no checkpoints here."""
        for folder in self.remains(queue):
            _remove(folder)

    def remove(self) -> None:
        """Remove all checkpoints of the campaign."""
        if _is_folder(self.folder):
            _remove(self.folder)

    def _ids(self) -> list[int]:
        try:
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())
        except OSError:
            return []


def purge_expired(expired: Expired, link: Link, age_s: float) -> bool:
    """Delete an expired campaign, as `Expired.purge` does, and its checkpoints and logs that are here."""
    key = Keys(expired.campaign).meta
    options = link.call(lambda client: client.hget(key, "options"))  # before they are gone
    if not expired.purge(link, age_s):
        return False
    if link.access.home is not None:
        remove_outputs(link.access.home / "logs", expired.campaign, expired.uid)
    disk = CheckpointDisk.of(expired.campaign, {"uid": expired.uid.encode(), "options": options or b""})
    if disk is not None:
        disk.remove()
    return True


def _remove(folder: Path) -> None:
    try:
        remove_tree(folder)
    except OSError as error:
        log.warning("checkpoints that nobody needs are left to `queue-eval doctor --clean`: %s", error)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir() and not path.is_symlink()
    except OSError:
        return False
