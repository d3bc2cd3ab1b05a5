"""Processes known by a mark in their environment: also those that belong to nobody any more."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress

import psutil


def new_mark() -> str:
    """The name of an environment variable that no process has; children inherit it."""
    return f"QE_BENCH_{secrets.token_hex(6)}"


def marked(mark: str) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["environ", "status"])
        if mark in (one.info["environ"] or ()) and one.info["status"] != psutil.STATUS_ZOMBIE
    ]


def kill_marked(mark: str) -> None:
    """Returns when none is left, also of those that were being started meanwhile."""
    while left := marked(mark):
        _kill(left)


def kill_family(process: psutil.Process, mark: str) -> None:
    """A marked process and all that it has started: also what writes its title where its environment was."""
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    _kill(family)
    kill_marked(mark)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
            process.wait(10)
