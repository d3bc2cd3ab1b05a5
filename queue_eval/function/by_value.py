"""Pickles a run function, and finds random generators in it, whose state would be the same in every job.

cloudpickle names the file of all code `<dynamic-code>`, and pickles a memoised helper by a name that the
other end does not have. Here code keeps its file's name, and the helper travels with the function that it
wraps.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import CodeType, ModuleType
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as inside

from queue_eval.errors import FunctionError
from queue_eval.function.generators import is_generator
from queue_eval.function.user_code import globals_of

MAX_PAYLOAD_BYTES = 64 * 2**20
"""How large a pickled run function may be."""

_DYNAMIC_CODE = "<dynamic-code>"
"""What cloudpickle gives as the file of all code."""


def pickle_function(function: Any, name: str, *, with_module: bool = False) -> tuple[bytes, list[str]]:
    """The pickle of a function, and the names of the random generators that travel in it.

    `with_module`: what it uses of its own module travels by value, too. Raises FunctionError.
    """
    file = io.BytesIO()
    try:
        with _by_value(function) if with_module else nullcontext():
            pickler = _Pickler(file)
            pickler.dump(function)
    except Exception as error:  # pickling runs user code (__reduce__), which may raise anything
        raise FunctionError(
            f"{name} cannot travel to a worker: {type(error).__name__}: {error}; "
            "move it to a module, or do not let it hold open files, locks or connections"
        ) from error
    pickled = file.getvalue()
    if len(pickled) > MAX_PAYLOAD_BYTES:
        raise FunctionError(
            f"{name} takes {len(pickled):,} bytes by value, more than {MAX_PAYLOAD_BYTES:,}; "
            "load large data in the run function rather than hold it"
        )
    return pickled, _names_of(pickler.generators, function)


def is_registered(module: str) -> bool:
    """Whether the user wants the module's code to travel by value (`register_pickle_by_value`)."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


@contextmanager
def _by_value(function: Any) -> Iterator[None]:
    name = (globals_of(function) or {}).get("__name__", "__main__")
    module = sys.modules.get(name)
    if name == "__main__" or not isinstance(module, ModuleType) or is_registered(name):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.generators: dict[int, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, CodeType):
            return _reduce_code(obj)
        if isinstance(obj, functools._lru_cache_wrapper) and _is_unfindable(obj):
            return _reduce_memoised(obj)
        if type(obj) is functools.cached_property:
            return _reduce_property(obj)
        if is_generator(obj):
            self.generators[id(obj)] = obj
        return super().reducer_override(obj)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    kind, arguments = inside._code_reduce(code)
    return kind, tuple(code.co_filename if arg == _DYNAMIC_CODE else arg for arg in arguments)


def _reduce_property(helper: Any) -> tuple[Any, ...]:
    # Up to Python 3.11 it holds a lock, which cannot be pickled.
    state = {"attrname": helper.attrname, "__doc__": helper.__doc__}
    return functools.cached_property, (helper.func,), state


def _is_unfindable(helper: Any) -> bool:
    """Whether the other end cannot find it by its name."""
    module = str(helper.__module__)
    return module == "__main__" or "<" in helper.__qualname__ or is_registered(module)


def _reduce_memoised(helper: Any) -> tuple[Any, ...]:
    # Made again as functools.lru_cache makes it. The results that it remembers do not travel.
    chosen = helper.cache_parameters()
    arguments = (helper.__wrapped__, chosen["maxsize"], chosen["typed"], functools._CacheInfo)
    return functools._lru_cache_wrapper, arguments, dict(vars(helper))


def _names_of(generators: dict[int, Any], function: Any) -> list[str]:
    found = [
        name
        for name, value in (globals_of(function) or {}).items()
        if id(value) in generators or id(getattr(value, "__self__", None)) in generators
    ]
    return found or ["one of its values"] * bool(generators)
