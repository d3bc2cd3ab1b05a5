"""One execution of a job, as it passes between the processes that run or forward it."""

from __future__ import annotations

from dataclasses import dataclass

Token = tuple[int, int]
"""Fencing token: (job id, attempt)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution to be made."""

    token: Token
    config: bytes
    slots: int = 1
    """How many it takes."""
