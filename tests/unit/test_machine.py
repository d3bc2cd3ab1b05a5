"""Which process is meant, whatever the machine's clock shows."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from queue_eval.machine import birth_of, is_alive


def test_a_process_is_told_from_another_of_its_number():
    born = birth_of(os.getpid())
    assert is_alive(os.getpid(), born)
    assert not is_alive(os.getpid(), born - 5)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        born = birth_of(ended.pid)
    assert not is_alive(ended.pid, born)


def test_a_zombie_is_not_alive():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        born = birth_of(ended.pid)
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(ended.pid, born)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is only the time of day")
def test_a_corrected_clock_kills_nobody(monkeypatch):
    """The kernel then shows another time of boot, and psutil another start of every process."""
    born, created = birth_of(os.getpid()), psutil.Process().create_time()
    boot_time = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time + 3600)
    monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", boot_time + 3600, raising=False)  # before psutil 7.1
    assert psutil.Process().create_time() - created == pytest.approx(3600, abs=10), "as after a correction"
    assert is_alive(os.getpid(), born)
