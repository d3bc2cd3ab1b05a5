"""Messages between a worker and its running attempts."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from queue_eval.runtime.mailroom import Mailroom
from queue_eval.runtime.notices import DRAIN, STOP, notice_file, read_notice
from queue_eval.runtime.pipe import encode_datagram

TOKEN = (3, 1)


def test_an_attempt_sees_the_word_and_stop_stays():
    mailroom = Mailroom().open()
    path = notice_file(str(mailroom.folder), "lane", *TOKEN)
    assert stat.S_IMODE(mailroom.folder.stat().st_mode) == 0o700
    assert read_notice(path) is None
    mailroom.tell("lane", TOKEN, DRAIN)
    assert read_notice(path) == DRAIN
    mailroom.tell("lane", TOKEN, STOP)
    mailroom.tell("lane", TOKEN, DRAIN)
    assert read_notice(path) == STOP
    assert read_notice(notice_file(str(mailroom.folder), "lane", 3, 2)) is None
    mailroom.forget("lane", TOKEN)
    assert read_notice(path) is None
    mailroom.close()
    assert not mailroom.folder.exists()


def test_what_comes_by_mail_is_read_and_what_is_no_frame_is_dropped():
    mailroom = Mailroom().open()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for data in (b"", b"noise", encode_datagram("lane", ("looked", 3, 1)), b"\0\0\0\3[1\n"):
            sender.sendto(data, str(mailroom.mailbox))
        sender.sendto(encode_datagram("lane", ("points", 3, 1, 5, 0), b"5 1 {}\n"), str(mailroom.mailbox))
    assert list(mailroom.receive()) == [
        ("lane", ["looked", 3, 1], b""),
        ("lane", ["points", 3, 1, 5, 0], b"5 1 {}\n"),
    ]
    assert list(mailroom.receive()) == []
    mailroom.close()


def test_a_long_temporary_folder_has_no_room_for_a_socket(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    mailroom = Mailroom().open()
    assert deep not in mailroom.folder.parents
    assert list(deep.iterdir()) == []
    mailroom.close()


@pytest.fixture
def short_folder(monkeypatch):
    """A folder for temporary files whose name leaves room for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="qe-mail-", dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def test_who_was_killed_leaves_its_folder_to_the_next_one(short_folder):
    code = (
        "import os, signal\nfrom queue_eval.runtime.mailroom import Mailroom\n"
        "mailroom = Mailroom().open()\n(mailroom.folder / 'word').write_text('stop')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    living = Mailroom().open()
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(short_folder.iterdir())) == 2
    not_yet_bound = living.folder.with_name(living.folder.name[:-16] + 16 * "0")
    not_yet_bound.mkdir()
    of_another_machine = short_folder / "qe-00000000-0123456789abcdef"
    of_another_machine.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as away:
        away.bind(str(of_another_machine / "mailbox"))
    mailroom = Mailroom().open()
    there = set(short_folder.iterdir())
    mailroom.close()
    living.close()
    assert there == {living.folder, mailroom.folder, not_yet_bound, of_another_machine}
