"""Values of jobs by name, and conditions on them like ``lr<0.01``, for the table of jobs."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from queue_eval.errors import UsageError
from queue_eval.model.codec import encode
from queue_eval.model.states import State

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "==": operator.eq, "<": operator.lt,
    ">": operator.gt, "=": operator.eq, "~": operator.contains,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([^<>=!~]*[^<>=!~\s])\s*(<=|>=|!=|==|=|<|>|~)(.*)", re.DOTALL)

NOTHING = object()
"""Stands for no value."""

Job = Mapping[str, Any]
"""As `JobRecord.as_json` gives it."""


def value_of(job: Job, name: str) -> Any:
    """A column of the job, or a key of its config or its result (`outer.inner`); else NOTHING.

    `p:lr` and `r:loss` say which of the two is meant.
    """
    result = job["result"] if job["state"] == State.SUCCEEDED else NOTHING
    if name in ("objective", "result"):
        return result.get("objective", result) if isinstance(result, dict) else result
    if name in job:
        return NOTHING if job[name] is None else job[name]
    for prefix, holder in (("p:", job["config"]), ("r:", result)):
        bare = name.removeprefix(prefix) if name.startswith(prefix) else name
        if (found := _within(holder, bare)) is not NOTHING:
            return found
    return NOTHING


def parse_condition(given: str) -> Callable[[Job], bool]:
    """Whether a job matches NAME OP VALUE. A job without the value never does. Raises UsageError."""
    match = _CONDITION.fullmatch(given)
    if match is None:
        raise UsageError(
            f"{given[:100]!r} is no condition; write NAME OP VALUE, like 'lr<0.01', where OP is one of "
            "< <= > >= = != ~ (contains)"
        )
    name, sign, text = match[1], _SIGNS[match[2]], match[3].strip()
    number = _number(text)

    def holds(job: Job) -> bool:
        value = value_of(job, name)
        if value is NOTHING:
            return False
        if number is not None and _is_number(value) and match[2] != "~":
            return sign(value, number)
        shown = value if isinstance(value, str) else encode(value)
        return text.casefold() in shown.casefold() if match[2] == "~" else sign(shown, text)

    return holds


def order_of(value: Any) -> tuple[int, Any]:
    """A key by which values of any kind sort: numbers, then text. NOTHING and what has no order come last."""
    if _is_number(value) and value == value:
        return (0, value)
    if isinstance(value, str):
        return (1, value)
    return (2, 0) if value is NOTHING or value is None else (1, encode(value))


def _within(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return NOTHING
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    return _within(value[head], rest) if dot and head in value else NOTHING


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
