"""Defines the attempt: one execution of a job, as it passes between processes that run or forward it."""

from __future__ import annotations

from typing import NamedTuple

Token = tuple[int, int]
"""Fencing token: (job id, attempt)."""


class Attempt(NamedTuple):
    """One execution to be made."""

    token: Token
    config: bytes
    slots: int = 1
    """How many slots it takes."""
