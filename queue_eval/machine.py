"""Which machine this is, and whether a process of it is alive."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import psutil

_TICK_S = 0.02
"""Births are rounded down to a tick of the kernel's clock; this is two."""


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


def host_id() -> str:
    """Which machine this is, also after it was started anew, and whatever it is called."""
    for place in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            found = Path(place).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if found and found != "uninitialized":
            return found
    return socket.gethostname()


def new_worker_name() -> str:
    """This host's name and six random hex digits."""
    host = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())
    return f"{host[:80]}-{secrets.token_hex(3)}"


def birth_of(pid: int) -> float:
    """When a process started: seconds since the boot. Raises psutil.Error when there is none.

    Not the time of day, as psutil gives it: when the machine's clock is corrected, that of every process
    changes, and all workers would seem to have died. Elsewhere than on Linux there is only that.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return psutil.Process(pid).create_time()
    # The name, in parentheses, may hold anything; the start is the 22nd field, in ticks.
    return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def born_now() -> float:
    """What `birth_of` would be of a process that begins now, or a little less."""
    if Path("/proc/self/stat").exists():
        return time.clock_gettime(time.CLOCK_BOOTTIME) - _TICK_S
    return time.time() - _TICK_S


def is_alive(pid: int, born: float) -> bool:
    """Whether the process `pid` with this birth (see `birth_of`) still runs."""
    try:
        return abs(birth_of(pid) - born) < 1.0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # the latter for what is no process's number
        return False


def parse_process(card: bytes) -> tuple[int, float] | None:
    """(pid, birth) of "pid born", as workers write it; None for what is damaged."""
    pid, _, born = card.decode(errors="replace").partition(" ")
    try:
        return int(pid), float(born)
    except ValueError:
        return None
