"""The children of one pool, and which of them need attention.

Each turn of the runner must cost the same with two children and with hundreds. So the pool looks only at
children that are noted here: those that something has happened to, and those that may have room.
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.executors.child_process import ChildProcess


class ChildSet:
    """Iterates over the children in the order in which they were started."""

    def __init__(self) -> None:
        self._slots: dict[ChildProcess, tuple[int, ...]] = {}
        self._stirred: dict[ChildProcess, None] = {}
        self.free: dict[ChildProcess, None] = {}
        """Children that may be able to begin an attempt. The pool strikes off those that are busy."""
        self.roomy: dict[ChildProcess, None] = {}
        """Children in which attempts may queue. The pool strikes off those that are full."""
        self._unsent: dict[ChildProcess, None] = {}

    def __iter__(self) -> Iterator[ChildProcess]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, child: ChildProcess) -> bool:
        return child in self._slots

    def add(self, child: ChildProcess, slots: tuple[int, ...]) -> None:
        self._slots[child] = slots
        self.note_room(child)

    def remove(self, child: ChildProcess) -> tuple[int, ...]:
        """Forget a child; returns its slots, where slots own something."""
        for noted in (self._stirred, self.free, self.roomy, self._unsent):
            noted.pop(child, None)
        return self._slots.pop(child)

    def slots_of(self, child: ChildProcess) -> tuple[int, ...]:
        """The slots that this child has, where slots own something."""
        return self._slots[child]

    def note_room(self, child: ChildProcess) -> None:
        self.free[child] = self.roomy[child] = None

    def note_stirred(self, child: ChildProcess) -> None:
        """The child has spoken, or is broken."""
        self._stirred[child] = None

    def take_stirred(self) -> list[ChildProcess]:
        stirred, self._stirred = self._stirred, {}
        return list(stirred)

    def note_unsent(self, child: ChildProcess) -> None:
        """The child was given something that is not sent yet."""
        self._unsent[child] = None

    def flush(self) -> None:
        """Send all children what they were given."""
        for child in self._unsent:
            child.flush()
        self._unsent.clear()

    def begun_at(self) -> Iterator[tuple[ChildProcess, float]]:
        """When each running attempt began (monotonic, s)."""
        return ((child, at) for child in self._slots for at in child.begun_at.values())
