"""Finds, signals and ends the processes of an attack. They have a mark in their environment."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from queue_eval.own_files import IMPORT_ROOT

MARK = "QUEUE_EVAL_CHAOS"
"""Environment variable that every process of an attack inherits; its value is the attack's own."""


@functools.cache
def hidden() -> tuple[str, ...]:
    """The words before a command that hide all other processes from it; () if this system cannot do that."""
    words = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return words if done.returncode == 0 else ()


def environment(mark: str, temporary: Path, **more: str) -> dict[str, str]:
    """The environment for processes of an attack: without the user's settings of queue_eval, and with a
    temporary folder of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUE_EVAL_")}
    kept |= {MARK: mark, "TMPDIR": str(temporary), **more}
    if IMPORT_ROOT not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # The package is not installed: all processes must use the same sources.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (IMPORT_ROOT, kept.get("PYTHONPATH"))))
    return kept


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that has the mark."""
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            continue
        if (process.info["environ"] or {}).get(MARK) == mark:
            found.append(process)
    return found


def end_all(mark: str, timeout_s: float = 20.0) -> None:
    """Kill every process that has the mark, also those that are started meanwhile."""
    deadline = time.monotonic() + timeout_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            send(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def send(pid: int, number: int) -> bool:
    """Send a signal. Returns whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def below(pids: Iterable[int]) -> list[psutil.Process]:
    """The living children of these processes."""
    found: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found += [p for p in psutil.Process(pid).children() if p.status() != psutil.STATUS_ZOMBIE]
    return found


def signal_tree(pid: int, number: int, *, turn: str, gap_s: float) -> None:
    """Send a process and all its descendants a signal, one after the other, as a batch system does.

    The turn of the process itself is "first", "last" or "between", with a pause of `gap_s` before and after.
    """
    pids: list[int] = []
    with contextlib.suppress(psutil.Error):
        pids = [process.pid for process in psutil.Process(pid).children(recursive=True)]
    before = {"first": 0, "last": len(pids)}.get(turn, len(pids) // 2)
    for descendant in pids[:before]:
        send(descendant, number)
    if before:
        time.sleep(gap_s)
    send(pid, number)
    if pids[before:]:
        time.sleep(gap_s)
    for descendant in pids[before:]:
        send(descendant, number)


def describe(process: psutil.Process) -> str:
    """Pid and command line, cut short."""
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:100]}"
    return str(process.pid)


def wait_for(condition: Callable[[], bool], timeout_s: float, step_s: float = 0.05) -> bool:
    """Wait until the condition is true. Returns whether it was in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_s)
    return True
