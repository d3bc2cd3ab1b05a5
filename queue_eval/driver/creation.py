"""What is decided when an evaluator is created stays so: a change that would do nothing is refused."""

from __future__ import annotations

import difflib
import inspect
import sys
from dataclasses import fields
from types import FrameType
from typing import Any, NoReturn

from queue_eval.driver.options import Options
from queue_eval.errors import UsageError

_LIKENESS = 0.85
"""A name that is so like a keyword (`difflib`: 1 is the same) was meant to be it."""

_SHOWN = ("run_function", "method", "num_workers", "campaign")
"""What an evaluator shows of its creation."""


class DecidedAtCreation:
    """The part of an evaluator that guards what it was created with.

    Assigning to a keyword of creation, or to a name that is nearly one, would change nothing: workers and the
    campaign have what was given. Other attributes are the user's own, also those that a class of the user's
    declares, or sets in its constructor. Nor is there a second evaluator in a copy: its jobs and its
    connections are those of one.
    """

    _is_decided = False
    """Set when it has been created."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self._is_decided and not _is_own(self, name):
            is_constructor = _is_constructor(sys._getframe(1), self)
            if not is_constructor or (name in _SHOWN and getattr(self, name) != value):
                self._refuse_change(name)
        object.__setattr__(self, name, value)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Asked by `copy.copy`, `copy.deepcopy` and `pickle`. Raises UsageError."""
        campaign = getattr(self, "campaign", None)
        raise UsageError(
            "an evaluator can be neither copied nor sent to another process; open its campaign there with: "
            f"Evaluator.attach({campaign!r})"
        )

    def _refuse_change(self, name: str) -> None:
        """Raises UsageError when `name` is one that was decided at creation, or nearly."""
        keywords = {field.name for field in fields(Options)} | {"method", "run_function", *_parameters(self)}
        meant = difflib.get_close_matches(name, keywords, 1, _LIKENESS)
        if name in keywords:
            meant = [name]
        if not meant:
            return
        keyword = meant[0]
        what = name if name == keyword else f"{name} (for {keyword}?)"
        raise UsageError(
            f"{what} is decided when an evaluator is created; create another one for the campaign, with "
            f"{keyword}=…"
        )


def _parameters(evaluator: object) -> list[str]:
    """The named parameters of the first of its classes that is ours."""
    ours = next(kind for kind in type(evaluator).__mro__ if _is_ours(kind))
    found = inspect.signature(ours).parameters.values()
    return [one.name for one in found if one.kind is not one.VAR_KEYWORD]


def _is_own(evaluator: object, name: str) -> bool:
    """Whether a class that is not ours has such an attribute, or has set it before."""
    return (name in vars(evaluator) and name not in _SHOWN) or any(
        name in vars(kind) or name in vars(kind).get("__annotations__", ())
        for kind in type(evaluator).__mro__
        if not _is_ours(kind) and kind is not object
    )


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("queue_eval.")


def _is_constructor(frame: FrameType, evaluator: object) -> bool:
    """Whether it is the constructor of a class of the user's, which calls ours first and goes on then."""
    parameters = frame.f_code.co_varnames
    is_one = frame.f_code.co_name == "__init__" and bool(parameters)
    return is_one and frame.f_locals.get(parameters[0]) is evaluator
