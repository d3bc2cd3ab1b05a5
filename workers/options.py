"""What a worker is told when it is started."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_LEASE_S = 30.0


def default_name() -> str:
    """The host's name and six random hex digits."""
    host = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return f"{host[:80]}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class WorkerOptions:
    slots: int
    campaigns: tuple[str, ...] | None = None
    """None: all campaigns of the server."""
    name: str = field(default_factory=default_name)
    lease_s: float = DEFAULT_LEASE_S
    """Shorter finds a dead worker sooner; longer survives longer pauses of a live one."""
    idle_timeout_s: float | None = None
    """End after so long without a job."""
    time_limit_s: float | None = None
    """End within so long: drain early enough, then release what still runs."""
    home: Path | None = None
    """Where the spool is kept."""
    python: str = field(default_factory=lambda: os.environ.get("QUEUE_EVAL_PYTHON") or sys.executable)
    """The interpreter that runs user code."""
