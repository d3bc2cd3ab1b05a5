"""The scripts that move jobs: one file per move, composed of small files in ``include``.

A script names what it uses by lines such as ``-- include bulk columns``, and so does each of these files.
Each is sent once, behind what it uses itself. No script sends what it does not use.

Laws that all scripts keep:

- A job is in exactly one place: scheduled, pending (by its width), one worker's held, or index.
- last_id = |scheduled| + |pending| + sum |pending:<width>| + sum |held| + |index|.
- One entry is in the result stream for each id that enters the index.
- Time is the server's. Nothing is written before all checks have passed.
- ARGV[1] is the campaign's uid: a caller that knew an earlier campaign of this name is told GONE.

KEYS are the campaign's columns, in the order of `queue_eval.campaign.keys`.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING

from queue_eval.transport.script import Script

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_INCLUDES = re.compile(r"^-- include ([\w ]+)\n", re.MULTILINE)


@cache
def script(name: str) -> Script:
    source = compose(files(__name__), name)
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def compose(folder: Traversable, name: str) -> str:
    """The script with all that it includes. Raises ValueError for a circle, and for what is not there."""
    is_whole: dict[str, bool] = {}

    def include(wanted: str) -> str:
        if not is_whole.get(wanted, True):
            raise ValueError(f"{name}.lua: the include {wanted!r} includes itself")
        if wanted in is_whole:
            return ""
        file = folder / "include" / f"{wanted}.lua"
        if not file.is_file():
            raise ValueError(f"{name}.lua: there is no include {wanted!r}")
        is_whole[wanted] = False
        text = with_includes(file)
        is_whole[wanted] = True
        return text

    def with_includes(file: Traversable) -> str:
        return _INCLUDES.sub(lambda line: "".join(map(include, line[1].split())), file.read_text("utf-8"))

    return with_includes(folder / f"{name}.lua")
