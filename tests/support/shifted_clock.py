"""A server of its own home whose clock shows another time, until that is put right while it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


class ShiftedClock:
    """Processes started with `environment` have a wall clock that is off; others have the right one."""

    def __init__(self, folder: Path, off_s: int) -> None:
        pytest.importorskip("libfaketime", reason="libfaketime is not there for this system")
        if sys.platform != "linux":
            pytest.skip("libfaketime needs LD_PRELOAD")
        import libfaketime

        # Not by its own helper, which executes the calling process again.
        library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
        self._file = folder / "clock.offset"
        self.set(off_s)
        self.environment = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set(self, off_s: int) -> None:
        half = self._file.with_suffix(".half")
        half.write_text(f"{off_s:+d}\n")
        half.replace(self._file)
