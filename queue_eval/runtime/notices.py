"""Notices to running attempts: a file for each attempt, with the word "stop" or "drain".

The worker writes it whole (`queue_eval.runtime.mailroom`), and all processes of the attempt look for it.
"""

from __future__ import annotations

import os

STOP = "stop"
"""The driver or a person has seen enough: return what there is."""

DRAIN = "drain"
"""The worker's time ends: save, and give back."""


def notice_file(folder: str, lane: str, job: int, attempt: int) -> str:
    """The path of the file with the notice to an attempt."""
    return f"{folder}/{lane}-{job}-{attempt}"


def read_notice(path: str) -> str | None:
    """The word in the file; None when there is none."""
    if not os.access(path, os.F_OK):  # faster than an error of `open`
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            word = os.read(fd, 16).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
    except OSError:  # it was removed
        return None
    return word if word in (STOP, DRAIN) else None
