"""A set of job ids that takes a bit for each: a million of them are 125 kB."""

from __future__ import annotations


class IdSet:
    """Ids from 1 on. It grows with the highest of them."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def add(self, id_: int) -> None:
        place, mask = id_ >> 3, 1 << (id_ & 7)
        bits = self._bits
        if place >= len(bits):
            bits.extend(bytes(max(place + 1, 2 * len(bits)) - len(bits)))
        if not bits[place] & mask:
            bits[place] |= mask
            self._count += 1

    def discard(self, id_: int) -> None:
        if id_ in self:
            self._bits[id_ >> 3] ^= 1 << (id_ & 7)
            self._count -= 1

    def __contains__(self, id_: int) -> bool:
        place, bit = divmod(id_, 8)
        return 0 <= place < len(self._bits) and bool(self._bits[place] & 1 << bit)

    def __len__(self) -> int:
        return self._count
