"""The checkpoints of a job on disk, and how an attempt adds one.

::

    BASE/.place                           a random id: who sees the same one shares the folder
    BASE/CAMPAIGN-UID/JOB/.begun-4        attempt 4 has begun to use checkpoints
    BASE/CAMPAIGN-UID/JOB/.4-2.part       the second one of attempt 4, while it is written
    BASE/CAMPAIGN-UID/JOB/4-2             the same, complete: written to the disk, then renamed
    BASE/CAMPAIGN-UID/JOB/.3-7.gone       an older one, while it is removed

The newest is the one with the highest (attempt, save). Numbers of attempts only grow, and an older attempt
may live on beside a newer one: on a host that was cut off, or in a process that was frozen.

Guarantees: a checkpoint is seen whole or not at all. What an attempt has found stays, whatever an older
attempt does. This rests on two orders. An attempt makes its mark *before* it lists checkpoints. An attempt
that saves renames, *then* lists marks, and removes older checkpoints only if no newer attempt has made its
mark. So either the newer attempt has listed after the renaming, and found the new checkpoint; or its mark is
seen, and nothing is removed.

Assumes: a renaming is atomic, and who lists a folder after another has changed it sees the change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from queue_eval.errors import CheckpointError
from queue_eval.runtime.trees import remove_tree, share, sync_folder, sync_tree, tree_bytes

_COMPLETE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_PART = re.compile(r"\.([0-9]{1,18})-([0-9]{1,18})\.part")
_GONE = re.compile(r"\.[0-9-]+\.gone")
_MARK = re.compile(r"\.begun-([0-9]{1,18})")
_PLACE_BYTES = 8


def campaign_folder(base: Path | str, campaign: str, uid: str) -> Path:
    """Where the checkpoints of a campaign lie."""
    return Path(base, f"{campaign}-{uid}")


def job_folder(base: Path | str, campaign: str, uid: str, job: int) -> Path:
    """Where the checkpoints of a job lie."""
    return campaign_folder(base, campaign, uid) / str(job)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in the folder of a job; None when there is none."""
    complete = _Contents.of(folder).complete
    return folder / f"{complete[-1][0]}-{complete[-1][1]}" if complete else None


def place_of(base: Path) -> str:
    """The id of a base folder, the same for all who share it: 16 hexadecimal digits. Made when missing."""
    path = base / ".place"
    part = base / f".place.{os.getpid()}.{os.urandom(4).hex()}"
    for _ in range(2):
        try:
            place = path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            pass
        else:
            if re.fullmatch("[0-9a-f]{16}", place):
                return place
            raise CheckpointError(f"{path} holds no id; remove this file")
        part.write_text(os.urandom(_PLACE_BYTES).hex())
        part.chmod(0o644)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
        except OSError:  # no links on this file system: of several first ones the last wins
            part.rename(path)
        part.unlink(missing_ok=True)
    raise CheckpointError(f"{path} comes and goes; keep it")


class Checkpoints:
    """The checkpoints of one job, as one attempt uses them. Thread-safe, and safe after a fork."""

    def __init__(
        self, base: Path, campaign: str, uid: str, job: int, attempt: int, space: int | None = None,
        step: Callable[[str], object] = lambda _: None,
    ) -> None:  # fmt: skip
        """`space`: how many bytes all complete checkpoints of the campaign may take. `step` is called between
        two steps on the disk, with the name of the last one: for tests."""
        self._base = base
        self._folder = job_folder(base, campaign, uid, job)
        self._attempt = attempt
        self._space = space
        self._step = step
        self._is_marked = False

    def newest(self) -> Path | None:
        """The newest complete checkpoint of any attempt. Raises CheckpointError when others may have put it
        there."""
        if not os.path.lexists(self._folder):
            return None  # without a mark: there is nothing that an older attempt could remove
        self._check_owner()
        with contextlib.suppress(OSError):  # a full or read-only disk: reading needs no room
            self._mark()
        return newest(self._folder)

    def begin(self) -> Path:
        """A fresh folder for the next checkpoint. Raises OSError."""
        self._make_folders()
        self._mark()
        self._step("marked")
        contents = _Contents.of(self._folder)
        while True:
            save = contents.last_save(self._attempt) + 1
            part = self._folder / f".{self._attempt}-{save}.part"
            try:
                part.mkdir(0o700)
            except FileExistsError:  # another process of this attempt was faster
                contents.parts.append((self._attempt, save))
                continue
            self._step("begun")
            return part

    def discard(self, part: Path) -> None:
        """Remove what `begin` has made."""
        with contextlib.suppress(OSError):  # the next attempt, or the worker at the job's end, tries again
            remove_tree(part)

    def complete(self, part: Path) -> int:
        """Make `part` the newest checkpoint. Returns the number of the save, or 0 when a newer attempt has
        begun: then the part is removed. Raises OSError, and then the former checkpoint stays."""
        try:
            self._check_space(sync_tree(part, self._group()))
            self._step("synced")
            is_replaced = _Contents.of(self._folder).has_newer(self._attempt)
            self._step("checked")
            save = 0 if is_replaced else self._rename(part)
        except BaseException as error:
            self.discard(part)
            # A newer attempt removes what older ones have begun.
            is_gone = isinstance(error, FileNotFoundError)
            if not (is_gone and _Contents.of(self._folder).has_newer(self._attempt)):
                raise
            save = 0
        if save == 0:
            self._tell_replaced()
            self.discard(part)
            return 0
        self._step("renamed")
        sync_folder(self._folder)
        contents = _Contents.of(self._folder)
        self._step("listed")
        if contents.has_newer(self._attempt):
            return 0
        self._remove_older(contents, save)
        return save

    @property
    def place(self) -> str:
        """See `place_of`."""
        return place_of(self._base)

    # The steps of `begin` and `complete` -------------------------------------------------------------------

    def _mark(self) -> None:
        if not self._is_marked:
            mark = self._folder / f".begun-{self._attempt}"
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._is_marked = True

    def _rename(self, part: Path) -> int:
        """Give the part the next free number, so that the save that ends last is the newest."""
        while True:
            done = [save for attempt, save in _Contents.of(self._folder).complete if attempt == self._attempt]
            save = max([*done, int(_PART.fullmatch(part.name)[2]) - 1]) + 1  # type: ignore[index]
            try:
                part.rename(self._folder / f"{self._attempt}-{save}")
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue
                raise
            return save

    def _remove_older(self, contents: _Contents, save: int) -> None:
        mine = (self._attempt, save)
        for attempt, number in contents.complete:
            if (attempt, number) < mine:
                gone = self._folder / f".{attempt}-{number}.gone"
                try:
                    (self._folder / f"{attempt}-{number}").rename(gone)
                except OSError:  # removed by another process of this attempt
                    continue
                self._step("moved")
                self.discard(gone)
        for attempt, number in contents.parts:
            if attempt < self._attempt:
                self.discard(self._folder / f".{attempt}-{number}.part")
        for name in contents.gone:
            self.discard(self._folder / name)
        for attempt in contents.marks:
            if attempt < self._attempt:
                (self._folder / f".begun-{attempt}").unlink(missing_ok=True)
        self._step("removed")

    def _check_space(self, size: int) -> None:
        if self._space is None:
            return
        used = size
        for folder in _folders(self._folder.parent):
            for attempt, save in _Contents.of(folder).complete:
                if folder.name != self._folder.name:
                    used += tree_bytes(folder / f"{attempt}-{save}")
        if used > self._space:
            raise CheckpointError(
                f"the checkpoints of this campaign would take {used:,} bytes, more than {self._space:,}; "
                "save less, or allow more by checkpoint_space"
            )

    def _tell_replaced(self) -> None:
        sys.stderr.write(
            f"queue_eval: attempt {self._attempt} of this job was replaced by a newer one; "
            "its checkpoint is not kept\n"
        )

    # The folders, and who may use them ---------------------------------------------------------------------

    def _group(self) -> int | None:
        """The group that shares the checkpoints; None when they are the account's own."""
        found = self._base.stat()
        return found.st_gid if found.st_mode & stat.S_IWGRP else None

    def _make_folders(self) -> None:
        if self._is_marked and self._folder.is_dir():
            return
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        group = self._group()
        for folder in (self._folder.parent, self._folder):
            try:
                folder.mkdir(0o700)
            except FileExistsError:
                continue
            if group is not None:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    share(fd, group)
                finally:
                    os.close(fd)
        self._check_owner()
        self._is_marked = False

    def _check_owner(self) -> None:
        """In a base folder in which everybody may write, use no folder that another account has made: what is
        restored from it may be code."""
        base = self._base.stat()
        for folder in (self._folder.parent, self._folder):
            found = folder.lstat()
            is_strange = base.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), base.st_uid)
            if is_strange or not stat.S_ISDIR(found.st_mode):
                raise CheckpointError(
                    f"{folder} is not this account's own; name a folder in which only your account or your "
                    "group may write (checkpoints=)"
                )


class Saving:
    """A context manager: gives the folder of a new checkpoint, which is complete at the end of the block.
    After an error in the block it never was."""

    def __init__(
        self, checkpoints: Checkpoints, check: Callable[[], object], saved: Callable[[int, str], object]
    ) -> None:
        """`check` raises an error when the attempt is over. `saved` is called with the number of the save and
        the place, once the checkpoint is complete."""
        self._checkpoints = checkpoints
        self._check = check
        self._saved = saved
        self._part: Path | None = None

    def __enter__(self) -> Path:
        self._check()
        self._part = self._checkpoints.begin()
        return self._part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        part, self._part = self._part, None
        assert part is not None
        if kind is not None:
            self._checkpoints.discard(part)
            return
        try:
            self._check()
            place = self._checkpoints.place
        except BaseException:
            self._checkpoints.discard(part)
            raise
        save = self._checkpoints.complete(part)
        if save:
            self._saved(save, place)


class _Contents(NamedTuple):
    """What the folder of a job holds, in order."""

    complete: list[tuple[int, int]]
    parts: list[tuple[int, int]]
    marks: list[int]
    gone: list[str]

    @classmethod
    def of(cls, folder: Path) -> _Contents:
        """Empty when there is no folder."""
        found = cls([], [], [], [])
        for entry in _entries(folder):
            name = entry.name
            if match := _MARK.fullmatch(name):
                found.marks.append(int(match[1]))
            elif not entry.is_dir(follow_symlinks=False):
                continue
            elif match := _COMPLETE.fullmatch(name):
                found.complete.append((int(match[1]), int(match[2])))
            elif match := _PART.fullmatch(name):
                found.parts.append((int(match[1]), int(match[2])))
            elif _GONE.fullmatch(name):
                found.gone.append(name)
        found.complete.sort()
        return found

    def has_newer(self, attempt: int) -> bool:
        """Whether an attempt after this one has begun to use checkpoints."""
        return max([*self.marks, *(number for number, _ in self.complete)], default=0) > attempt

    def last_save(self, attempt: int) -> int:
        return max((save for number, save in [*self.complete, *self.parts] if number == attempt), default=0)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return


def _folders(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
