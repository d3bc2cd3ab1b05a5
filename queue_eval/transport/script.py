"""A Lua script as it is sent to a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """`name` is for failpoints and errors; `sha` is the SHA-1 of `source` (hex), by which servers know it."""

    name: str
    source: str
    sha: str
