"""Guards what an evaluator was created with: an assignment that would have no effect is refused."""

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
"""A name at least this similar to a keyword (`difflib`: 1 is equal) is taken for a misspelling of it."""

_SHOWN = ("run_function", "method", "num_workers", "campaign")
"""Attributes by which an evaluator shows what it was created with."""


class DecidedAtCreation:
    """The part of an evaluator that guards what it was created with.

    Assigning to a keyword of creation, or to a misspelt one, would change nothing, since workers and the
    campaign have what was given: it is refused. Other attributes are the user's own, also those that a class
    of the user's declares, or sets in its constructor. A copy is refused, too, since two evaluators cannot
    share jobs and connections.
    """

    _is_decided = False
    """Whether the evaluator has been created."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self._is_decided and not _is_own(self, name):
            is_constructor = _is_constructor(sys._getframe(1), self)
            if not is_constructor or (name in _SHOWN and getattr(self, name) != value):
                self._refuse_change(name)
        object.__setattr__(self, name, value)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Called by `copy.copy`, `copy.deepcopy` and `pickle`. Raises UsageError."""
        campaign = getattr(self, "campaign", None)
        raise UsageError(
            "an evaluator can be neither copied nor sent to another process; open its campaign there with: "
            f"Evaluator.attach({campaign!r})"
        )

    def _refuse_change(self, name: str) -> None:
        """Raises UsageError when `name` is a keyword of creation, or a misspelt one."""
        keywords = {field.name for field in fields(Options)} | {"method", "run_function", *_parameters(self)}
        meant = difflib.get_close_matches(name, keywords, 1, _LIKENESS)
        if name in keywords:
            meant = [name]
        if not meant:
            return
        keyword = meant[0]
        attribute = name if name == keyword else f"{name} (for {keyword}?)"
        raise UsageError(
            f"{attribute} is decided when an evaluator is created; create another one for the campaign, with "
            f"{keyword}=…"
        )


def _parameters(evaluator: object) -> list[str]:
    """The named parameters of its first class that is ours."""
    ours = next(kind for kind in type(evaluator).__mro__ if _is_ours(kind))
    parameters = inspect.signature(ours).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]


def _is_own(evaluator: object, name: str) -> bool:
    """Whether a class that is not ours declares this attribute, or the user has set it before."""
    return (name in vars(evaluator) and name not in _SHOWN) or any(
        name in vars(kind) or name in vars(kind).get("__annotations__", ())
        for kind in type(evaluator).__mro__
        if not _is_ours(kind) and kind is not object
    )


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("queue_eval.")


def _is_constructor(frame: FrameType, evaluator: object) -> bool:
    """Whether the frame is the constructor of a class of the user's, which goes on after calling ours."""
    parameters = frame.f_code.co_varnames
    is_one = frame.f_code.co_name == "__init__" and bool(parameters)
    return is_one and frame.f_locals.get(parameters[0]) is evaluator
