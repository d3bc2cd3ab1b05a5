"""Identifies this machine, and tells whether a process on it is alive."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import psutil

_TWO_TICKS_S = 0.02
"""Two ticks of the kernel's clock. Births are rounded down to a tick."""


def machine_id() -> str:
    """An id that two processes share exactly if they see each other's process ids."""
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
    """An id of this machine that stays the same after a reboot, and when the machine is renamed."""
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
    """When a process started: seconds since the boot. Raises psutil.Error when there is no such process.

    psutil gives the time of day instead. It changes for every process when the machine's clock is corrected,
    and then all workers would seem to have died. On systems other than Linux there is only that.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return psutil.Process(pid).create_time()
    # The process's name, in parentheses, may hold anything. The start is the 22nd field, in ticks.
    return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def born_now() -> float:
    """What `birth_of` gives for a process that starts now, or a little less."""
    if Path("/proc/self/stat").exists():
        return time.clock_gettime(time.CLOCK_BOOTTIME) - _TWO_TICKS_S
    return time.time() - _TWO_TICKS_S


def is_alive(pid: int, born: float) -> bool:
    """Whether the process `pid` with this birth (see `birth_of`) still runs."""
    try:
        return abs(birth_of(pid) - born) < 1.0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):  # the last two if `pid` can be no process's number
        return False


def parse_process(card: bytes) -> tuple[int, float] | None:
    """(pid, birth) of a text "pid born", as workers write it; None if it is damaged."""
    pid, _, born = card.decode(errors="replace").partition(" ")
    try:
        return int(pid), float(born)
    except ValueError:
        return None
