"""Trees are removed, shared and measured without following links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queue_eval.runtime.trees import remove_tree, sync_tree, tree_bytes


def make(folder: Path) -> Path:
    """A tree with links, a pipe, and folders that cannot be read or changed."""
    outside = folder.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "kept").write_text("kept")
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("12345")
    (folder / "a" / "to-folder").symlink_to(outside)
    (folder / "a" / "to-file").symlink_to(outside / "deep" / "kept")
    (folder / "a" / "to-nothing").symlink_to("nowhere")
    os.mkfifo(folder / "a" / "pipe")
    (folder / "a" / "b" / "file").chmod(0)
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0o500)
    return outside


def test_removed_with_all_rights_missing_and_no_link_followed(tmp_path: Path) -> None:
    outside = make(tmp_path / "tree")
    outside.joinpath("deep").chmod(0o500)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert (outside / "deep" / "kept").read_text() == "kept"
    remove_tree(tmp_path / "tree")  # what is missing is no error
    remove_tree(tmp_path / "no" / "such")


def test_a_link_is_removed_and_not_what_it_names(tmp_path: Path) -> None:
    outside = make(tmp_path / "tree")
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (outside / "deep" / "kept").exists()
    remove_tree(tmp_path / "tree")


def test_deep_trees(tmp_path: Path) -> None:
    """Deeper than a path may be long, and than the process may open files."""
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(2500):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    remove_tree(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_synced_and_measured(tmp_path: Path) -> None:
    make(tmp_path / "tree")
    assert sync_tree(tmp_path / "tree", None) == 5
    assert tree_bytes(tmp_path / "tree") == 5
    assert (tmp_path / "tree" / "a" / "b" / "file").read_text() == "12345"
    assert tree_bytes(tmp_path / "none") == 0
    remove_tree(tmp_path / "tree")


def test_shared_with_a_group(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").write_text("x")
    (tree / "inner" / "program").touch(0o700)
    (tree / "link").symlink_to("/etc/hostname")
    before = Path("/etc/hostname").stat().st_mode
    (tree / "inner" / "file").chmod(0o600)
    sync_tree(tree, os.getegid())
    modes = [oct(path.stat().st_mode & 0o7777) for path in
             (tree, tree / "inner", tree / "inner" / "file", tree / "inner" / "program")]  # fmt: skip
    assert [mode[-2] for mode in modes] == ["7", "7", "6", "7"]
    assert Path("/etc/hostname").stat().st_mode == before


def test_what_cannot_be_removed_is_told_after_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "file").touch()
    unlink = os.unlink

    def failing(path: str, *, dir_fd: int | None = None) -> None:
        if (Path(f"/proc/self/fd/{dir_fd}") / path).resolve().parent.name == "b":
            raise PermissionError(1, "not permitted", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", failing)
    with pytest.raises(PermissionError):
        remove_tree(tmp_path / "tree")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["b"]
