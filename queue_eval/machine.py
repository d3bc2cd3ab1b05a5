"""Which machine this is, and whether a process of it is alive."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import psutil


def machine_id() -> str:
    """Same for two processes exactly if they see each other's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = socket.gethostname()
    try:
        # Containers share the boot id of their host, but have process ids of their own.
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return boot


def new_worker_name() -> str:
    """This host's name and six random hex digits."""
    host = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())
    return f"{host[:80]}-{secrets.token_hex(3)}"


def is_alive(pid: int, created: float) -> bool:
    """Whether the process `pid` that started at `created` (Unix time, s, as psutil gives it) still runs."""
    try:
        process = psutil.Process(pid)
        # The time is derived from the clock of the boot, which may be corrected by a little.
        return abs(process.create_time() - created) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # the latter for what is no process's number
        return False


def parse_process(card: bytes) -> tuple[int, float] | None:
    """(pid, creation time) of "pid created", as workers write it; None for what is damaged."""
    pid, _, created = card.decode(errors="replace").partition(" ")
    try:
        return int(pid), float(created)
    except ValueError:
        return None
