"""Which process owns which slots of a worker, where slots own something (GPUs, cores)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from queue_eval.foreign_text import plain
from workers.resources import Means, joined, own_cores, parse_cores, parse_gpus, share_out
from workers.scheduler import Allocation

log = plain(logging.getLogger(__name__))


class Holder(Protocol):
    """Takes slots for its processes."""

    def let_go(self) -> bool:
        """Give the slots of one idle process back; False when there is none."""


class SlotBoard:
    """Guarantees: a slot has one owner at a time, over all campaigns of the worker, so that no two live
    processes share what it owns. Assumes: all calls, but for reading `means`, come from the runner's thread.
    """

    def __init__(self, means: Sequence[Means]) -> None:
        self.means = tuple(means)
        self._free = set(range(len(self.means)))
        self._leaving: dict[int, Callable[[], object]] = {}
        """Slots whose processes are ending, and a call that finds out whether they have ended."""
        self._holders: list[Holder] = []

    def join(self, holder: Holder) -> None:
        """From now on `holder` may be asked to let go. May be called twice."""
        if holder not in self._holders:
            self._holders.append(holder)

    def leave(self, holder: Holder) -> None:
        """`holder` holds nothing any more. May be called twice."""
        if holder in self._holders:
            self._holders.remove(holder)

    def take(self, count: int) -> tuple[int, ...] | None:
        """Take so many slots; idle processes end for them. None while other processes use the slots."""
        for look in set(self._leaving.values()):
            look()
        while len(self._free) + len(self._leaving) < count:
            if not any(holder.let_go() for holder in self._holders):
                return None
        if len(self._free) < count:
            return None
        taken: list[int] = []
        while len(taken) < count:
            known = frozenset(self.owned(taken).gpus)
            # Two slots of one GPU are the worse choice for a job that wants two.
            chosen = min(self._free, key=lambda slot: (not known.isdisjoint(self.means[slot].gpus), slot))
            self._free.remove(chosen)
            taken.append(chosen)
        return tuple(sorted(taken))

    def expect_back(self, slots: Iterable[int], look: Callable[[], object]) -> None:
        """The process of these slots is ending. `give_back` follows, maybe when `look` is called."""
        self._leaving.update(dict.fromkeys(slots, look))

    def give_back(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._leaving.pop(slot, None)
            self._free.add(slot)

    def owned(self, slots: Iterable[int]) -> Means:
        """What these slots own together."""
        return joined(self.means[slot] for slot in slots)


def board_for(
    slots: int, *, gpus: str | None, cores: str | None, cores_per_slot: int | None,
    allocation: Allocation | None = None,
) -> SlotBoard | None:  # fmt: skip
    """The slots of a worker and what its command line gives them. None when it gives nothing. Raises
    UsageError."""
    if gpus is None and cores is None and cores_per_slot is None:
        return None
    owned: tuple[int, ...] = ()
    if cores is not None:
        owned = parse_cores(cores)
    elif cores_per_slot is not None:
        owned = own_cores(allocation)
    means = share_out(
        slots,
        gpus=parse_gpus(gpus, os.environ) if gpus is not None else (),
        cores=owned,
        cores_per_slot=cores_per_slot,
    )
    for slot, owned_by_slot in enumerate(means):
        log.info("slot %d owns %s", slot, owned_by_slot)
    shared = [gpu for gpu, count in Counter(gpu for part in means for gpu in part.gpus).items() if count > 1]
    if shared:
        log.info("there are more slots than GPUs: GPU %s is shared by several slots", ", ".join(shared))
    return SlotBoard(means)
