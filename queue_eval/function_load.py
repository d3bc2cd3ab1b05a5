"""The other end of `function_ref`: a run function that has travelled is loaded, in a process that may run it.

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

from queue_eval.errors import FunctionError

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType
    from typing import Any


def split_name(name: str) -> tuple[str, str]:
    """Module and function of ``"package.module:function"``. Raises FunctionError."""
    module, colon, function = name.partition(":")
    parts = [*module.split("."), *function.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise FunctionError(f'{name!r} does not name a function; write it as "package.module:function"')
    return module, function


def is_module_allowed(module: str, allowed: Iterable[str]) -> bool:
    """Whether one of `allowed` is this module, or a package that it is in."""
    return any(module == one or module.startswith(f"{one}.") for one in allowed)


def load(
    name: str, payload: bytes | None, path: Iterable[str], allowed: Iterable[str] | None = None
) -> Callable[..., Any]:
    """The run function, in a process that may run user code. A payload must have been verified before.

    `allowed`: modules in one of which it must be defined when it comes by reference.
    Raises FunctionError, with what was looked for and where, when it cannot be loaded.
    """
    # In front also when they are on the path already: the user's modules come before ours, as in the driver.
    first = [folder for folder in path if os.path.isdir(folder)]  # noqa: PTH112 - no pathlib in this process
    sys.path[:] = [*first, *(folder for folder in sys.path if folder not in first)]
    try:
        if payload is not None:
            import cloudpickle

            function = cloudpickle.loads(payload)
        else:
            module, qualname = split_name(name)
            __import__(module)  # what importlib.import_module does, whose package takes a while to import
            function = sys.modules[module]
            for part in qualname.split("."):
                function = getattr(function, part)
            if allowed is not None:
                _check_origin(name, function, tuple(allowed))
    except BaseException as error:  # user modules may raise anything at import, even SystemExit
        if isinstance(error, FunctionError):
            raise
        raise FunctionError(
            f"the run function {name} cannot be loaded on this worker: {type(error).__name__}: {error}; "
            f"looked in {[folder for folder in sys.path if folder]}"
        ) from error
    if not callable(function):
        raise FunctionError(f"the run function {name} is {type(function).__name__}, which cannot be called")
    loaded: Callable[..., Any] = function
    return loaded


def _check_origin(name: str, function: Any, allowed: tuple[str, ...]) -> None:
    """An allowed module leads to all that it has imported: "model:os.system" is no function of model."""
    inner = function
    while type(inner).__name__ == "partial" and hasattr(inner, "func"):
        inner = inner.func
    origin = str(getattr(inner, "__module__", None) or type(inner).__module__)
    if not is_module_allowed(origin, allowed):
        raise FunctionError(
            f"the run function {name} is defined in module {origin}, which this worker does not allow; "
            f"start the worker with: --allow {origin}"
        )


def source_hash(function: Any) -> str:
    """Hash of a function's code, equal as long as it does the same, wherever it stands; '' if unknown."""
    for _ in range(100):  # decorated functions and partials name what they wrap
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None and callable(function):  # an object with a __call__ of its own
        code = getattr(type(function).__call__, "__code__", None)
    return hash_code(code) if isinstance(code, _CODE) else ""


def hash_code(code: CodeType) -> str:
    from _blake2 import blake2b  # hashlib would load OpenSSL

    return blake2b(repr(_essence(code)).encode(), digest_size=4).hexdigest()


_CODE = type(hash_code.__code__)


def _essence(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without where it stands. Sets are sorted: their order differs by process."""
    constants = [
        _essence(constant) if isinstance(constant, _CODE)
        else sorted(map(repr, constant)) if isinstance(constant, frozenset)
        else constant
        for constant in code.co_consts
    ]  # fmt: skip
    return (code.co_name, code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars)
