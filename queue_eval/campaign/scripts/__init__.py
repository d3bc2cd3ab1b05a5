"""The scripts that move jobs: one file per move, each prefixed with ``_shared.lua`` when it is loaded."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files

from queue_eval.transport.script import Script


@cache
def script(name: str) -> Script:
    folder = files(__name__)
    source = (folder / "_shared.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())
