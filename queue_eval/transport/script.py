"""A Lua script as it is sent to a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """`name`: for failpoints and errors. `sha`: the SHA-1 of `source`, by which servers know it."""

    name: str
    source: str
    sha: str
