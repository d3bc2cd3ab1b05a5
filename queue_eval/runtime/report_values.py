"""Checks what a job reports: a step and numbers by name. Imported only by jobs that call `current_job`."""

from __future__ import annotations

from queue_eval.errors import ReportError
from queue_eval.model.codec import EXACT_FLOAT, encode
from queue_eval.runtime.pipe import MAX_POINT_BYTES

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

MAX_NAMES = 100
"""A report has no more values."""

_MAX_JSON_BYTES = MAX_POINT_BYTES - 40
"""How long the values may be as JSON. The rest is for the time and the step."""
_INT64 = 2**63
"""Integers from here on become floats, as in most tables."""
_SHOWN_CHARACTERS = 40


def checked(step: Any, values: dict[str, Any]) -> tuple[int, dict[str, float], str]:
    """The step, the values as plain numbers, and these as JSON. Raises ReportError, which names the value."""
    if type(step) is not int:
        step = _step(step)
    if not -EXACT_FLOAT <= step <= EXACT_FLOAT:
        raise ReportError(f"report: the step is beyond ±{EXACT_FLOAT}; give a smaller one")
    if not values:
        raise ReportError("report: there are no values; give numbers by name, as in report(3, loss=0.5)")
    if len(values) > MAX_NAMES:
        raise ReportError(f"report: {len(values)} values are more than {MAX_NAMES}; report fewer names")
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if type(value) is float or (type(value) is int and -_INT64 <= value < _INT64):
            numbers[name] = value
        else:
            numbers[name] = _number(name, value)
    return step, numbers, as_json(numbers)


def as_json(numbers: dict[str, float]) -> str:
    """The values as they are sent. Raises ReportError when they are too long."""
    text = encode(numbers)
    if len(text) > _MAX_JSON_BYTES:
        raise ReportError(
            f"report: the values take {len(text):,} bytes as JSON, more than {_MAX_JSON_BYTES:,}; "
            "give fewer or shorter names"
        )
    return text


def _step(step: Any) -> int:
    try:
        number = _plain(step)
        if number == int(number):
            return int(number)
    except Exception:  # noqa: S110 - foreign classes raise anything, and NaN and infinity are no integers
        pass
    raise ReportError(f"report: the step is {_kind(step)}; give a whole number")


def _number(name: str, value: Any) -> float:
    shown = _cut(name)
    try:
        number = _plain(value)
    except OverflowError:
        raise ReportError(f"report: {shown!r} is an integer too large for a float; report its log") from None
    except Exception as error:  # foreign classes raise anything
        because = "" if isinstance(error, TypeError) else f" ({type(error).__name__})"
        raise ReportError(f"report: {shown!r} is {_kind(value)}{because}; give numbers only") from None
    return number


def _plain(value: Any) -> float:
    """A number of any library as a Python number. Raises TypeError for anything else."""
    if isinstance(value, (str, bytes, bool)):
        raise TypeError
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):  # times: `item` may give an integer
        raise TypeError
    for _ in range(2):
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, int):
            number = int(value)
            return number if -_INT64 <= number < _INT64 else float(number)
        if isinstance(value, float):
            return float(value)
        item = getattr(value, "item", None)  # of numpy, torch, jax: one number, or it raises
        if not callable(item):
            break
        value = item()
    if isinstance(value, (str, bytes, complex)) or not hasattr(value, "__float__"):
        raise TypeError
    return float(value)


def _kind(value: Any) -> str:
    name = _cut(type(value).__name__)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _cut(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…"
