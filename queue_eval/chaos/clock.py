"""Sets back the wall clock of one server while it runs. All other processes keep the true time.

libfaketime is loaded into the server's process, and reads the offset of its clock from a file. Monotonic
clocks (CLOCK_MONOTONIC) do not change, as when a machine's clock is set.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from queue_eval.errors import MethodUnavailableError

_LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"


def libfaketime() -> Path:
    """The shared library of the package. Raises MethodUnavailableError if it is missing."""
    found = find_spec("libfaketime")
    if found is not None and found.origin is not None:
        library = Path(found.origin).parent / _LIBRARY
        if library.exists():
            return library
    raise MethodUnavailableError(
        "setting a server's clock back needs the package libfaketime, on Linux; "
        "install it with: pip install 'queue-eval[chaos]'"
    )


class ServerClock:
    """A clock that processes use when they, or their parents, are started with `environment`.

    Raises MethodUnavailableError if libfaketime is missing.
    """

    def __init__(self, folder: Path, *, ahead_s: float = 0.0) -> None:
        self._file = folder / "clock.offset"
        self._ahead_s = ahead_s
        self._write()
        self.environment = {
            "LD_PRELOAD": str(libfaketime()), "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set_back(self, by_s: float) -> None:
        self._ahead_s -= by_s
        self._write()

    def _write(self) -> None:
        # Replace the file: a reader must see either the old offset or the new one.
        half = self._file.with_suffix(".half")
        half.write_text(f"{self._ahead_s:+.3f}\n")
        half.replace(self._file)
