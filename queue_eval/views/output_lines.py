"""Turns what jobs print into lines for a terminal: whole lines, without colours and overwritten parts."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, and moves of the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_MAX_OPEN_CHARS = 4096
"""A line without an end is shown when it is longer."""


class LineReader:
    """The lines of one stream of bytes.

    A progress bar ends its lines by a carriage return. It gives its newest state with each call, if
    `shows_bars`; else only its last one.
    """

    def __init__(self, *, shows_bars: bool = False) -> None:
        self._shows_bars = shows_bars
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that are whole now."""
        *lines, self._open = (self._open + self._decoder.decode(data)).split("\n")
        for line in lines:
            yield _shown(line)
        state, is_bar, rest = self._open.rpartition("\r")
        if is_bar and rest and self._shows_bars:
            yield _shown(state)
            self._open = rest
        elif len(self._open) > _MAX_OPEN_CHARS:
            yield _shown(self._open)
            self._open = ""

    def end(self) -> Iterator[str]:
        """What is left: the stream ends, or something is missing behind it."""
        left = self._open + self._decoder.decode(b"", final=True)
        self._open = ""
        if left:
            yield _shown(left)


def lines_of(text: bytes) -> list[str]:
    """All lines of a text."""
    reader = LineReader()
    return [*reader.feed(text), *reader.end()]


def _shown(line: str) -> str:
    """A line as a terminal shows it that has obeyed it."""
    return _CONTROL.sub("", line).rstrip("\r").rpartition("\r")[2]
