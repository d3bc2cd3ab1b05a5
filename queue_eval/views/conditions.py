"""Conditions on jobs, like ``lr<0.01``: read from what a user gave, and never evaluated as code.

Two numbers are compared as numbers, anything else as text: text stands as it is, other values as JSON. A job
that lacks the value never matches, whatever the operator. Null, lists, dicts, true and false have no order:
they match by ``=``, ``!=`` and ``~`` only.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from queue_eval.errors import UsageError
from queue_eval.model.codec import encode
from queue_eval.model.durations import parse_duration
from queue_eval.model.states import State
from queue_eval.model.table_cells import NOTHING, is_no_number, json_of, word_of
from queue_eval.views.job_values import COUNTS, SECONDS, value_of

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_EQUALS: dict[str, Callable[[Any, Any], bool]] = {"!=": operator.ne, "==": operator.eq, "=": operator.eq}
_CONTAINS = "~"
_CONDITION = re.compile(r"\s*([^<>=!~]*[^<>=!~\s])\s*(<=|>=|!=|==|=|<|>|~)(.*)", re.DOTALL)


class Condition(NamedTuple):
    """NAME OP VALUE, checked."""

    name: str
    """As `queue_eval.views.job_values` spells it."""
    sign: str
    text: str
    number: int | float | None
    """None where the value is no number."""

    def holds(self, job: Mapping[str, Any]) -> bool:
        """Whether a job, as of `JobRecord.as_json`, matches."""
        value = value_of(job, self.name)
        if value is NOTHING:
            return False
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.sign == _CONTAINS:
            return self.text.casefold() in _shown(value).casefold()
        if self.sign in _ORDERS:
            if is_number and self.number is not None:
                return _ORDERS[self.sign](value, self.number)
            return (is_number or isinstance(value, str)) and _ORDERS[self.sign](_shown(value), self.text)
        if is_number and self.number is not None:
            return _EQUALS[self.sign](value, self.number)
        return _EQUALS[self.sign](_shown(value), self._text_beside(value))

    def _text_beside(self, value: Any) -> str:
        """The text as JSON spells it, where the value is true, false or null and the user wrote it otherwise,
        as Python does."""
        word = word_of(self.text)
        if (isinstance(value, bool) or value is None) and (word is None or isinstance(word, bool)):
            return encode(word)
        return self.text


def parse_condition(given: str) -> Condition:
    """Raises UsageError for what is no condition, and for a value that its column cannot have."""
    match = _CONDITION.fullmatch(given)
    if match is None:
        raise UsageError(
            f"{given!r} is no condition; write NAME OP VALUE, like 'lr<0.01', where OP is one of "
            "< <= > >= = != ~ (contains)"
        )
    name, sign, text = match[1], match[2], match[3].strip()
    quoted = json_of(text)
    if isinstance(quoted, str):
        text, number = quoted, None
    else:
        number = _number(text)
    if name in SECONDS and number is None:
        number = parse_duration(text)
    if number is None and sign != _CONTAINS:
        _check(given, name, sign, text)
    return Condition(name, sign, text, number)


def _check(given: str, name: str, sign: str, text: str) -> None:
    """Refuse text that no job can match in a column of our own."""
    if name in COUNTS:
        raise UsageError(f"{given!r}: {name} is a number, and {text!r} is none; give a number")
    if name in SECONDS:
        raise UsageError(f"{given!r}: {name} is a time; give seconds, or a duration like 90s or 1h30m")
    if name == "state" and sign in _EQUALS and text not in set(State):
        raise UsageError(f"{given!r}: there is no state {text!r}; give one of {', '.join(State)}")


def _number(text: str) -> int | float | None:
    if is_no_number(text):
        number = float(text)
        return None if number != number else number
    word = word_of(text)
    return word if isinstance(word, (int, float)) and not isinstance(word, bool) else None


def _shown(value: Any) -> str:
    """The value as text; a NaN as users write it, too."""
    if isinstance(value, str):
        return value
    return "nan" if isinstance(value, float) and value != value else encode(value)
