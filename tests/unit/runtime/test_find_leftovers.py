"""Marked processes are found whatever they do just then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from queue_eval.marks import STARTED_BY
from queue_eval.runtime import leftovers
from queue_eval.runtime.leftovers import CAN_BE_FOUND, find
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not CAN_BE_FOUND, reason="what has left its group cannot be found here")

MARK = f"test-{os.getpid()}"
IN_EXECVE = [b"0", b"0"]
"""Where the environment begins and ends while a process begins another program, as Linux 6 shows it."""


@pytest.fixture
def daemon() -> Iterator[int]:
    """A marked process in a session of its own."""
    process = subprocess.Popen(
        ["sleep", "300"], env=os.environ | {STARTED_BY: MARK}, start_new_session=True
    )  # fmt: skip
    wait_until(lambda: process.pid in find(MARK))
    yield process.pid
    process.kill()
    process.wait()


class Shown:
    """What /proc shows of one process for the first `times`: no environment, and this in its stat file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pid: int, times: int, *, flags=0, ends=IN_EXECVE):
        self.looks = 0
        read, stat = leftovers._read, leftovers._stat

        def hiding_read(pid_read: int, name: str, refused: bytes = b"") -> bytes:
            if (pid_read, name) == (pid, "environ"):
                self.looks += 1
                if self.looks <= times:
                    return b""
            return read(pid_read, name, refused)

        def hiding_stat(pid_read: int) -> list[bytes] | None:
            fields = stat(pid_read)
            if fields and pid_read == pid and self.looks <= times:
                fields[6], fields[47:49] = b"%d" % flags, ends
            return fields

        monkeypatch.setattr(leftovers, "_read", hiding_read)
        monkeypatch.setattr(leftovers, "_stat", hiding_stat)


def test_one_that_begins_another_program_is_looked_at_again(daemon, monkeypatch):
    shown = Shown(monkeypatch, daemon, times=2)
    assert list(find(MARK)) == [daemon]
    assert shown.looks == 3


def test_one_that_has_just_begun_it(daemon, monkeypatch):
    """Its environment was hidden when it was read, and is there when its stat file is."""
    Shown(monkeypatch, daemon, times=1, ends=[b"100", b"200"])
    assert list(find(MARK)) == [daemon]


@pytest.mark.parametrize(
    "told",
    [{"ends": [b"100", b"100"]}, {"flags": 0x00200000}, {"flags": 0x4}],
    ids=["none", "kernel", "exiting"],
)
def test_those_without_any_environment_are_not_waited_for(daemon, monkeypatch, told):
    shown = Shown(monkeypatch, daemon, times=2, **told)
    assert list(find(MARK)) == []
    assert shown.looks == 1


def test_one_that_never_begins_it_is_given_up(daemon, monkeypatch):
    monkeypatch.setattr(leftovers, "_EXEC_S", 0.05)
    Shown(monkeypatch, daemon, times=10**9)
    assert list(find(MARK)) == []


def test_the_real_stat_file_has_these_fields():
    stat = leftovers._stat(os.getpid())
    assert stat is not None
    assert int(stat[48]) - int(stat[47]) >= len(leftovers._read(os.getpid(), "environ")) > 0
