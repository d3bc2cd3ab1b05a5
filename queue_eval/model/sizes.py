"""Reads sizes as users write them."""

from __future__ import annotations

import re

_SIZES = {
    unit: base**power
    for power, letter in enumerate("KMGT", 1)
    for unit, base in ((letter, 1000), (f"{letter}B", 1000), (f"{letter}IB", 1024))
}


def parse_size(text: str) -> int | None:
    """Bytes of ``500MB``, ``2G`` (powers of 1000) or ``1GiB`` (of 1024); None if the text is not a size."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)({'|'.join(_SIZES)})", "".join(text.split()).upper())
    return None if match is None else round(float(match[1]) * _SIZES[match[2]])
