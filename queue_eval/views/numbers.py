"""The numbers in a result, by name: what a view can rank and draw."""

from __future__ import annotations

import math
from typing import Any

from queue_eval.model.codec import decode

WHOLE = ""
"""The name of a result that is a number itself."""

MOST_KEYS = 8
"""So many names of numbers are followed for one campaign: those seen first."""

_OBJECTIVE = "objective"


def numbers_of(body: bytes) -> dict[str, float]:
    """The finite numbers in a result (JSON), by name.

    `WHOLE` is the name of a result that is a number. Those in a dict have its keys; in a dict within it
    ``outer.inner``. Booleans, lists and what lies deeper count for none.
    """
    try:
        return {WHOLE: number} if math.isfinite(number := float(body)) else {}
    except ValueError:
        pass
    if not body.startswith(b"{"):
        return {}
    try:
        result = decode(body)
    except ValueError:
        return {}
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            for inner, deeper in value.items():
                _take(found, f"{name}.{inner}", deeper)
        else:
            _take(found, name, value)
    return found


def main_key(keys: list[str]) -> str | None:
    """The name that a view shows unless another is asked for; None where there is none.

    It is the result itself, else ``objective``, as in DeepHyper, else the first.
    """
    for name in (WHOLE, _OBJECTIVE):
        if name in keys:
            return name
    return keys[0] if keys else None


def _take(found: dict[str, float], name: str, value: Any) -> None:
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            return
        if math.isfinite(number):
            found[name] = number
