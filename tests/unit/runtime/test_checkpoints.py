"""Checkpoints on disk: whole or not there, and never spoilt by an older attempt that lives on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from queue_eval.errors import AttemptEndedError, CheckpointError
from queue_eval.runtime import checkpoints as module
from queue_eval.runtime.checkpoints import Checkpoints, Saving, job_folder, newest, place_of
from queue_eval.runtime.trees import remove_tree

UID = "0123456789abcdef"
STEPS = ("marked", "begun", "synced", "checked", "renamed", "listed", "moved", "removed")
"""As `begin` and `complete` pass them when there is an older checkpoint."""


class Stopped(BaseException):
    """As if the process were killed here."""


def store(base: Path, attempt: int, step: Callable[[str], object] = str) -> Checkpoints:
    return Checkpoints(base, "search", UID, 7, attempt, step=step)


def save(checkpoints: Checkpoints, text: str) -> int:
    part = checkpoints.begin()
    (part / "step").write_text(text)
    return checkpoints.complete(part)


def text(checkpoint: Path | None) -> str | None:
    return None if checkpoint is None else (checkpoint / "step").read_text()


def names(base: Path) -> list[str]:
    return sorted(path.name for path in job_folder(base, "search", UID, 7).iterdir())


def test_the_newest_is_by_attempt_then_save(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "search", UID, 7)
    complete = ["2-9", "10-1", "10-2", "9-30"]
    others = [".11-1.part", ".12-1.gone", "x", "13", "-1-2", "14-1.old", "\N{FULLWIDTH DIGIT NINE}9-1"]
    for name in complete + others:
        (folder / name).mkdir(parents=True)
    (folder / "20-1").touch()
    (folder / "21-1").symlink_to(folder / "2-9")
    assert newest(folder) == folder / "10-2"
    assert newest(tmp_path / "none") is None


def test_saves_follow_each_other(tmp_path: Path) -> None:
    first = store(tmp_path, 1)
    assert first.newest() is None
    assert not (tmp_path / f"search-{UID}").exists()
    assert [save(first, str(step)) for step in (1, 2, 3)] == [1, 2, 3]
    assert names(tmp_path) == [".begun-1", "1-3"]
    later = store(tmp_path, 4)
    assert text(later.newest()) == "3"
    assert save(later, "4") == 1
    assert names(tmp_path) == [".begun-4", "4-1"]


@pytest.mark.parametrize("at", STEPS)
def test_killed_at_each_step(tmp_path: Path, at: str) -> None:
    """Something whole is there, the former or the new one, and the next attempt goes on and tidies up."""
    assert save(store(tmp_path, 1), "former") == 1

    def step(name: str) -> None:
        if name == at:
            raise Stopped

    dying = store(tmp_path, 2, step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "discard", lambda *_: None)  # the dead remove nothing
        with pytest.raises(Stopped):
            save(dying, "new")
    expected = "former" if STEPS.index(at) < STEPS.index("renamed") else "new"
    third = store(tmp_path, 3)
    assert text(third.newest()) == expected
    assert save(third, "third") == 1
    assert names(tmp_path) == [".begun-3", "3-1"]


@pytest.mark.parametrize("at", STEPS)
def test_an_older_attempt_that_lives_on(tmp_path: Path, at: str) -> None:
    """At each step of an older attempt's save a newer one begins, and reads what it has found to its end."""
    assert save(store(tmp_path, 1), "former") == 1
    newer = store(tmp_path, 3)
    found: list[Path | None] = []

    def step(name: str) -> None:
        if name == at:
            found.append(newer.newest())

    save(store(tmp_path, 2, step), "from the older")
    assert text(found[0]) == ("former" if STEPS.index(at) < STEPS.index("renamed") else "from the older")
    # From now on the older one changes nothing any more.
    before = names(tmp_path)
    assert save(store(tmp_path, 2), "later still") == 0
    assert names(tmp_path) == before
    assert save(newer, "newer") == 1
    assert names(tmp_path) == [".begun-3", "3-1"]


@pytest.mark.parametrize("at", STEPS)
def test_a_newer_attempt_saves_meanwhile(tmp_path: Path, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert save(store(tmp_path, 1), "former") == 1

    def step(name: str) -> None:
        if name == at:
            assert save(store(tmp_path, 3), "newer") == 1

    older = store(tmp_path, 2, step)
    if at == "begun":
        with pytest.raises(FileNotFoundError):  # while it writes: the newer one has tidied up
            save(older, "from the older")
        return
    saved = save(older, "from the older")
    assert saved == (1 if at in ("listed", "moved", "removed") else 0)
    assert text(store(tmp_path, 4).newest()) == "newer"
    assert names(tmp_path) == [".begun-3", ".begun-4", "3-1"]
    was_told = "attempt 2 of this job was replaced by a newer one" in capsys.readouterr().err
    assert was_told == (at in ("marked", "synced", "checked"))


@pytest.mark.parametrize("at", STEPS)
def test_another_process_of_the_attempt_saves_meanwhile(tmp_path: Path, at: str) -> None:
    """What ends last is the newest."""
    assert save(store(tmp_path, 1), "former") == 1
    begun = []

    def step(name: str) -> None:
        if name == at and not begun:
            begun.append(name)
            assert save(store(tmp_path, 2), "the other") > 0

    assert save(store(tmp_path, 2, step), "this") > 0
    is_last = STEPS.index(at) < STEPS.index("renamed")
    assert text(store(tmp_path, 2).newest()) == ("this" if is_last else "the other")
    assert names(tmp_path)[0] == ".begun-2"
    assert len(names(tmp_path)) == 2


def test_two_real_processes(tmp_path: Path) -> None:
    """The older one is held at each step by a pipe, while the newer one begins in another process."""
    assert save(store(tmp_path, 1), "former") == 1
    for attempt, at in zip(range(10, 90, 10), STEPS, strict=True):
        reached, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:

                def step(name: str, at: str = at, reached: int = reached[1], go: int = go[0]) -> None:
                    if name == at:
                        os.write(reached, b"x")
                        os.read(go, 1)

                save(store(tmp_path, attempt, step), f"older {attempt}")
                status = 0
            finally:
                os._exit(status)
        assert os.read(reached[0], 1) == b"x"
        newer = store(tmp_path, attempt + 5)
        found = newer.newest()
        os.write(go[1], b"x")
        assert os.waitpid(pid, 0)[1] == 0
        assert text(found) is not None
        assert save(newer, f"newer {attempt}") == 1
        assert names(tmp_path) == [f".begun-{attempt + 5}", f"{attempt + 5}-1"]
        for fd in (*reached, *go):
            os.close(fd)


def test_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = store(tmp_path, 1)
    save(checkpoints, "former")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, "new")
    monkeypatch.undo()
    assert names(tmp_path) == [".begun-1", "1-1"]
    assert text(checkpoints.newest()) == "former"

    def no_room(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    later = store(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "open", no_room)  # the mark cannot be made, but reading goes on
        assert text(later.newest()) == "former"
        with pytest.raises(OSError, match="No space left"):
            save(later, "new")
    assert save(later, "new") == 1


def test_room_for_all_checkpoints_of_a_campaign(tmp_path: Path) -> None:
    def of(job: int, attempt: int = 1) -> Checkpoints:
        return Checkpoints(tmp_path, "search", UID, job, attempt, 100)

    assert save(of(1), "x" * 60) == 1
    assert save(of(1, 2), "x" * 70) == 1  # in the place of the former one
    with pytest.raises(CheckpointError, match="would take 110 bytes, more than 100; save less") as caught:
        save(of(2), "x" * 40)
    assert isinstance(caught.value, OSError)
    assert newest(job_folder(tmp_path, "search", UID, 2)) is None
    assert save(of(2), "x" * 30) == 1


def test_the_place_is_the_same_for_all_who_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(tmp_path)
    assert place.isalnum()
    assert len(place) == 16
    assert place_of(tmp_path) == place
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(module.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
    other = place_of(tmp_path / "other")
    assert other != place
    assert place_of(tmp_path / "other") == other
    assert sorted(path.name for path in tmp_path.iterdir()) == [".place", "other"]
    (tmp_path / ".place").write_text("two words")
    with pytest.raises(CheckpointError, match="holds no id; remove this file"):
        place_of(tmp_path)


def test_a_folder_of_a_group(tmp_path: Path) -> None:
    base = tmp_path / "shared"
    base.mkdir()
    base.chmod(0o770)
    checkpoints = store(base, 1)
    part = checkpoints.begin()
    (part / "inner").mkdir(mode=0o700)
    (part / "inner" / "model").touch(0o600)
    checkpoints.complete(part)
    saved = checkpoints.newest()
    assert saved is not None
    for folder in (saved.parents[1], saved.parent, saved, saved / "inner"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o070 == 0o070
    assert stat.S_IMODE((saved / "inner" / "model").stat().st_mode) == 0o660
    alone = store(tmp_path / "alone", 1)
    save(alone, "x")
    for folder in (tmp_path / "alone", *(tmp_path / "alone").glob("search-*")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another account")
def test_a_folder_that_another_account_has_put_there(tmp_path: Path) -> None:
    base = tmp_path / "for-all"
    base.mkdir()
    base.chmod(0o1777)
    folder = job_folder(base, "search", UID, 7)
    (folder / "1-1").mkdir(parents=True)
    os.chown(folder.parent, 12345, 12345)
    for use in (store(base, 2).newest, store(base, 2).begin):
        with pytest.raises(CheckpointError, match="is not this account's own"):
            use()


def test_a_link_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "7" / "1-1").mkdir(parents=True)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / f"search-{UID}").symlink_to(tmp_path / "elsewhere")
    for use in (store(tmp_path / "base", 2).newest, store(tmp_path / "base", 2).begin):
        with pytest.raises(CheckpointError, match="is not this account's own"):
            use()


@pytest.fixture
def saving(tmp_path: Path) -> tuple[Saving, list[tuple[int, str]], list[bool]]:
    saved: list[tuple[int, str]] = []
    over: list[bool] = []

    def check() -> None:
        if over:
            raise AttemptEndedError("over")

    return Saving(store(tmp_path, 1), check, lambda *told: saved.append(told)), saved, over


def test_saving(saving: tuple[Saving, list[tuple[int, str]], list[bool]], tmp_path: Path) -> None:
    saver, saved, over = saving
    with saver as folder:
        (folder / "step").write_text("1")
        (folder / "link").symlink_to("/etc")
    with pytest.raises(KeyError), saver as folder:
        raise KeyError
    assert saved == [(1, place_of(tmp_path))]
    with pytest.raises(AttemptEndedError), saver as folder:
        over.append(True)
    with pytest.raises(AttemptEndedError), saver:
        pass
    assert names(tmp_path) == [".begun-1", "1-1"]
    remove_tree(job_folder(tmp_path, "search", UID, 7))
    assert not job_folder(tmp_path, "search", UID, 7).exists()
