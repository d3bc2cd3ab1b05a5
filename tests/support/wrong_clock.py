"""Processes whose clock shows another time: whatever starts with this environment, and its children."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.fault_fleet import ROOT

_SITE = '''\
import datetime, os, pathlib, time

_OFF_S = float(os.environ["TEST_CLOCK_OFF_S"])
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + _OFF_S
time.time_ns = lambda: _time_ns() + int(_OFF_S * 1e9)


class datetime_(_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


datetime.datetime = datetime_
pathlib.Path(__file__).with_name(f"{os.getpid()}.off").touch()
'''


class WrongClock:
    """Guarantees: `has_misled(pid)` says whether that process has had the other time since it began."""

    def __init__(self, folder: Path, off_s: float) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITE)
        self._folder = folder
        self.environment = {
            "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "TEST_CLOCK_OFF_S": str(off_s),
        }  # fmt: skip

    def has_misled(self, pid: int) -> bool:
        return (self._folder / f"{pid}.off").exists()
