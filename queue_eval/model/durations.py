"""Reads durations as users write them."""

from __future__ import annotations

import re

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in _UNITS_S))


def parse_duration(text: str) -> float | None:
    """Seconds of ``90``, ``90s``, ``15m``, ``1h30m`` or ``500ms``; None if the text is not a duration."""
    text = "".join(text.split()).lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    return sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS_S.values(), strict=True) if n)
