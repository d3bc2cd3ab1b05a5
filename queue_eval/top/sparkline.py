"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_NOT_A_NUMBER = "·"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars, the newest on the right. More than `width` of them are joined to means.

    What is not finite is a dot.
    """
    if width <= 0 or not values:
        return ""
    columns = _joined(values, width) if len(values) > width else list(values)
    finite = [value for value in columns if math.isfinite(value)]
    if not finite:
        return _NOT_A_NUMBER * len(columns)
    low, high = min(finite), max(finite)
    # Halved, so that the span of the largest floats is one, too.
    span = high / 2 - low / 2

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return _NOT_A_NUMBER
        height = (value / 2 - low / 2) / span if span else 0.5
        return _BARS[min(len(_BARS) - 1, int(height * len(_BARS)))]

    return "".join(map(bar, columns))


def _joined(values: Sequence[float], width: int) -> list[float]:
    """The means of `width` portions of neighbours. Of those without a finite value it is NaN."""
    found = []
    for i in range(width):
        part = values[i * len(values) // width : (i + 1) * len(values) // width]
        finite = [value for value in part if math.isfinite(value)]
        found.append(sum(value / len(finite) for value in finite) if finite else math.nan)
    return found
