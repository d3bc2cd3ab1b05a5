"""Another account that listens at a unix socket, and tells what it is told. It answers nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

UID = 54321
OTHER_UID = 54322

_LISTEN = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
listener = socket.socket(socket.AF_UNIX)
os.chdir(sys.argv[2])
listener.bind("sock")
os.chmod("sock", 0o777)
listener.listen(64)
print("listening", flush=True)
while True:
    line, _ = listener.accept()
    line.settimeout(10)
    told = b""
    try:
        while part := line.recv(4096):
            told += part
    except OSError:
        pass
    print(told.hex() or "nothing", flush=True)
"""


class ForeignListener:
    """`socket` may be moved to wherever a client is to find it."""

    def __init__(self, process: subprocess.Popen[str], socket: Path) -> None:
        self._process = process
        self.socket = socket

    def told(self) -> str:
        """What the next connection has sent, in hex, once that has ended; "nothing" for nothing."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def needs_accounts() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a second account takes root, on Linux")


@contextmanager
def foreign_listener(uid: int = UID, folder: Path | None = None) -> Iterator[ForeignListener]:
    """`folder`: where it listens, if not in one of its own that only root could put elsewhere."""
    needs_accounts()
    # Not a temporary folder: everybody may make files there.
    own = Path(tempfile.mkdtemp(prefix="qe-", dir="/run"))
    try:
        own.chmod(0o755)
        os.chown(own, uid, uid)
        place = folder or own
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LISTEN, str(uid), str(place)],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        with process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "listening\n"
                yield ForeignListener(process, place / "sock")
            finally:
                process.kill()
    finally:
        shutil.rmtree(own)
