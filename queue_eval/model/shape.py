"""What a job needs of a worker: slots, and time."""

from __future__ import annotations

import re
from typing import NamedTuple

_TEXT = re.compile(r"([0-9]{1,9})(?:@([0-9]{1,9}))?")


class Shape(NamedTuple):
    """Jobs of several slots, and jobs that ask for time, wait apart on the server, by their shape."""

    slots: int = 1
    time_s: int = 0
    """The whole seconds that one attempt needs (`time_request`); 0 for none asked for."""

    @classmethod
    def parse(cls, text: str) -> Shape | None:
        """The shape in "slots" or "slots@seconds"; None for a damaged one."""
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.slots}@{self.time_s}" if self.time_s else str(self.slots)


NARROW = Shape()
"""The shape of jobs that wait in no place of their own."""
