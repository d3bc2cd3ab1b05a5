"""The wall clock of one server, which is set back while it runs; everybody else's stays right.

libfaketime is loaded into the server's process, and reads from a file by how much its clock is off. Clocks
that only count on (CLOCK_MONOTONIC) are left alone, as they are when a machine's clock is set.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from queue_eval.errors import MethodUnavailableError

_LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"


def libfaketime() -> Path:
    """The shared library of the package. Raises MethodUnavailableError where it is not."""
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
    """What starts with `environment`, and its children, read their time from it.

    Raises MethodUnavailableError where libfaketime is not.
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
        # Whoever reads it meanwhile reads the one or the other.
        half = self._file.with_suffix(".half")
        half.write_text(f"{self._ahead_s:+.3f}\n")
        half.replace(self._file)
