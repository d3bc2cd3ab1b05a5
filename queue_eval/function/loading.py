"""Loads a run function that has travelled, in a process that may run user code. `reference` is the other end.

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import sys

from queue_eval.errors import FunctionError
from queue_eval.function.user_code import (
    fill_main,
    forget_script,
    import_script,
    innermost,
    python_version,
    read_script,
    set_import_path,
)

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
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def load(
    name: str, payload: bytes | None, path: Iterable[str], allowed: Iterable[str] | None = None,
    code: dict[str, Any] | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """The run function, loaded in a process that may run user code.

    Assumes: the signature of a `payload` was verified before.
    `allowed`: a function by reference must be defined in one of these modules or packages; None allows all.
    `code`: how the driver finds its code (see `user_code`); None where that is not known.
    Raises FunctionError when it cannot be loaded, with what was looked for and where.
    """
    set_import_path(path, code)
    try:
        function = _from_script(name, code, must=payload is None)
        if function is not None:
            pass
        elif payload is not None:
            _check_python(name, code)
            import cloudpickle

            function = cloudpickle.loads(payload)
            fill_main(function)
        elif code is not None and code.get("script"):
            raise FunctionError(
                f"the run function {name} runs from its script {code['script']['file']}, which is not here "
                "as the driver has it, and it cannot travel by value; move it to a module, or start the "
                "driver again"
            )
        else:
            module, qualname = split_name(name)
            __import__(module)  # what importlib.import_module does, whose package takes a while to import
            function = _attribute(sys.modules[module], qualname)
            if allowed is not None:
                _check_origin(name, function, tuple(allowed))
    except BaseException as error:  # user modules may raise anything at import, even SystemExit
        if isinstance(error, FunctionError):
            raise
        raise FunctionError(
            f"the run function {name} cannot be loaded on this worker: {type(error).__name__}: {error}; "
            f"{_where_driver_has_it(code)}looked in {[folder for folder in sys.path if folder]}"
        ) from error
    if not callable(function):
        raise FunctionError(f"the run function {name} is {type(function).__name__}, which cannot be called")
    loaded: Callable[..., Any] = function
    return loaded


def _from_script(name: str, code: dict[str, Any] | None, *, must: bool) -> Any:
    """The function, from the driver's script; None when the script is not here, or its import fails.

    The import may need what only the driver has, such as a working directory. `must`: raise its error.
    """
    source = read_script(code)
    if code is None or source is None:
        return None
    try:
        return _attribute(import_script(code["script"], source), split_name(name)[1])
    except BaseException as error:  # user modules may raise anything at import, even SystemExit
        if must or isinstance(error, KeyboardInterrupt):
            raise
        forget_script()
        return None


def _attribute(module: Any, qualname: str) -> Any:
    found = module
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _where_driver_has_it(code: dict[str, Any] | None) -> str:
    file = (code or {}).get("file")
    return f"the driver has it from {file}; " if file else ""


def _check_python(name: str, code: dict[str, Any] | None) -> None:
    """Raise FunctionError unless code by value comes from the Python of this process.

    Code of another Python loads without an error, and kills the process when it is called.
    """
    wanted = (code or {}).get("python")
    if wanted and wanted != python_version():
        raise FunctionError(
            f"{name} travels by value from Python {wanted}, and this worker runs {python_version()}, which "
            f"cannot run it; start the worker with Python {wanted}, or move the function to a module"
        )


def _check_origin(name: str, function: Any, allowed: tuple[str, ...]) -> None:
    """Raise FunctionError unless the function is defined in an allowed module.

    Its name may lead through an allowed module to one that this has imported, such as "model:os.system".
    """
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
    """Hash of a function's code (8 hex digits); "" if it has none. Its place in the file does not count."""
    function = innermost(function)
    code = getattr(function, "__code__", None)
    if code is None and callable(function):  # an object with a __call__ of its own
        code = getattr(type(function).__call__, "__code__", None)
    return hash_code(code) if isinstance(code, _CODE) else ""


def hash_code(code: CodeType) -> str:
    """Hash of a code object (8 hex digits)."""
    from _blake2 import blake2b  # hashlib would load OpenSSL

    return blake2b(repr(_essence(code)).encode(), digest_size=4).hexdigest()


_CODE = type(hash_code.__code__)


def _essence(code: CodeType) -> tuple[Any, ...]:
    """What decides the behaviour of a code object, without its file and lines. Sets are sorted, because their
    order differs between processes."""
    constants = [
        _essence(constant) if isinstance(constant, _CODE)
        else sorted(map(repr, constant)) if isinstance(constant, frozenset)
        else constant
        for constant in code.co_consts
    ]  # fmt: skip
    return (code.co_name, code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars)
