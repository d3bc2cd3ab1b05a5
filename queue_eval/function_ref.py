"""How a run function travels: by reference when a worker can import it, else by value (cloudpickle)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from queue_eval.errors import FunctionError
from queue_eval.function_load import hash_code, source_hash, split_name

MAX_PAYLOAD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class FunctionRef:
    """A run function, ready to travel."""

    name: str
    """``package.module:qualified.name``"""
    payload: bytes | None
    """Its pickle when it travels by value."""
    source: str
    """Hash of its code (8 hex digits), empty when it is not known here."""
    path: tuple[str, ...]
    """Folders that the worker puts on its import path, where they exist there."""


def describe(run_function: Callable[..., Any] | str) -> FunctionRef:
    """The reference of a callable, or of a string ``"package.module:function"`` (which is not imported).

    Raises FunctionError when it is neither, or cannot be pickled.
    """
    if isinstance(run_function, str):
        module, function = split_name(run_function)
        path = _driver_path()
        return FunctionRef(run_function, None, _source_in_file(module, function, path), tuple(path))
    if not callable(run_function):
        raise FunctionError(
            f"run_function is {type(run_function).__name__!s}, not a function; "
            'give a callable or "package.module:function"'
        )
    named: Any = run_function
    while type(named).__name__ == "partial" and hasattr(named, "func"):
        named = named.func  # a partial is known by what it wraps
    module = getattr(named, "__module__", None) or "__main__"
    qualname = getattr(named, "__qualname__", type(named).__qualname__)
    name = f"{module}:{qualname}"
    source = source_hash(run_function)
    if _is_importable(run_function, module, qualname):
        return FunctionRef(name, None, source, (*_driver_path(), *_module_root(module)))
    return FunctionRef(name, _pickle(run_function, name), source, (*_driver_path(), *_module_root(module)))


def _source_in_file(module: str, function: str, path: Iterable[str]) -> str:
    """The hash of a function that is not imported: its module's file is found, compiled, searched."""
    import importlib.machinery

    folders: list[str] | None = [*path, *sys.path]
    spec = None
    for depth, part in enumerate(module.split("."), 1):
        spec = importlib.machinery.PathFinder.find_spec(part, folders)
        if spec is None:
            return ""
        if depth < module.count(".") + 1:
            folders = list(spec.submodule_search_locations or [])
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    try:
        code = compile(Path(spec.origin).read_bytes(), spec.origin, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return ""
    for part in function.split("."):
        inner = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == part]
        if not inner:
            return ""
        code = inner[-1]
    return hash_code(code)


def _driver_path() -> list[str]:
    """The driver's working directory and the folder of its script, in the order it imports from them."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    # A console script or an installed module is not the user's script.
    is_ours = script and Path(script).resolve().is_relative_to(Path(__file__).resolve().parent)
    is_users = script and not is_ours and not _is_installed(script)
    folders = [str(Path(script).resolve().parent)] if script and is_users else []
    # `python -m` looks in the working directory first, `python script.py` in the script's folder.
    run_as_module = getattr(main, "__spec__", None) is not None
    folders.insert(0 if run_as_module else len(folders), str(Path.cwd()))
    return list(dict.fromkeys(folders))


def _module_root(module: str) -> list[str]:
    """The folder in which the top package of `module` was found, unless it is an installed one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or not file or _is_installed(file):
        return []
    root = Path(file).resolve().parents[module.count(".") + (Path(file).name == "__init__.py")]
    return [str(root)] if str(root) not in _driver_path() else []


def _is_installed(file: str) -> bool:
    import sysconfig

    resolved = str(Path(file).resolve())
    folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "scripts")}
    return any(resolved.startswith(str(Path(folder).resolve()) + os.sep) for folder in folders if folder)


def _is_importable(function: Any, module: str, qualname: str) -> bool:
    if module == "__main__" or "<" in qualname or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is function


def _pickle(function: Any, name: str) -> bytes:
    import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(function)
    except Exception as error:  # pickling runs user code (__reduce__), which may raise anything
        raise FunctionError(
            f"{name} cannot travel to a worker: {type(error).__name__}: {error}; "
            "move it to a module, or do not let it hold open files, locks or connections"
        ) from error
    if len(pickled) > MAX_PAYLOAD_BYTES:
        raise FunctionError(
            f"{name} takes {len(pickled):,} bytes by value, more than {MAX_PAYLOAD_BYTES:,}; "
            "load large data in the run function rather than hold it"
        )
    return pickled
