"""Processes known by a mark in their environment: also those that belong to nobody any more."""

from __future__ import annotations

import secrets

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
        for process in left:
            try:
                process.kill()
                process.wait(10)
            except psutil.Error:
                continue
