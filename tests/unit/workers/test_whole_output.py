"""The file that has the whole output of an attempt."""

from __future__ import annotations

import os
import time

import pytest

from workers.executors import whole_output
from workers.executors.whole_output import WholeOutput, output_folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "home" / "logs" / "campaign-5eed"


def test_it_has_what_came_before_and_what_follows(folder):
    whole = WholeOutput(folder, (7, 2), b"before ")
    whole.write(b"after")
    whole.close()
    whole.close()
    whole.write(b"too late")
    assert whole.path == folder / "7-2.log"
    assert whole.path.read_bytes() == b"before after"
    modes = [whole.path, folder, folder.parent, folder.parent.parent]
    assert [path.stat().st_mode & 0o777 for path in modes] == [0o600, 0o700, 0o700, 0o700]
    assert str(whole.path) in whole.note()


def test_it_is_bounded_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(whole_output, "MAX_FILE_BYTES", 10)
    whole = WholeOutput(folder, (1, 1), b"12345")
    whole.write(b"67890")
    whole.write(b"x")
    whole.write(b"y")
    assert whole.path.read_bytes() == b"1234567890" + whole_output._FULL


def test_no_link_is_followed(folder, tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    folder.mkdir(parents=True)
    (folder / "1-1.log").symlink_to(target)
    WholeOutput(folder, (1, 1), b"x").close()
    assert target.read_text() == "mine"
    assert (folder / "1-1.log").read_text() == "x"
    other = folder.parent / "other-5eed"
    other.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(OSError, match=r"[Ll]inks|directory"):
        WholeOutput(other, (1, 1), b"x")
    assert not (tmp_path / "1-1.log").exists()


def test_old_files_and_too_many_go(folder, monkeypatch):
    monkeypatch.setattr(whole_output, "_MAX_FILES", 3)
    folder.mkdir(parents=True)
    now = time.time()
    ages_s = {"1-1.log": 30, "2-1.log": 20, "3-1.log": 10, "4-1.log": 15 * 86400, "mine": 40}
    for name, age_s in ages_s.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age_s, now - age_s))
    WholeOutput(folder, (5, 1), b"x").close()
    assert sorted(path.name for path in folder.iterdir()) == ["2-1.log", "3-1.log", "5-1.log", "mine"]


def test_without_a_home_there_is_no_folder(tmp_path):
    assert output_folder(None) is None
    assert output_folder({"logs": None, "campaign": "c", "uid": "u"}) is None
    assert output_folder({"campaign": "c", "uid": "u"}) is None
    assert output_folder({"logs": str(tmp_path), "campaign": "..", "uid": "5eed"}) == tmp_path / "..-5eed"
