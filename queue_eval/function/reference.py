"""Makes a run function ready to travel: by reference when workers can import it, else by value (cloudpickle).

::

    importable as this driver has it ──▶ by reference: module and name
    of a script with a main guard    ──▶ by its script, on this machine; by value elsewhere
    all others                       ──▶ by value, signed

In each case the reference also says how this driver finds its modules: see `user_code` for the other end.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

from queue_eval.errors import FunctionError
from queue_eval.function.driver_path import find_fresh, find_pins, import_path, is_findable
from queue_eval.function.driver_script import find_script, main_file
from queue_eval.function.loading import hash_code, source_hash, split_name
from queue_eval.function.user_code import is_installed, python_version
from queue_eval.machine import machine_id
from queue_eval.user_warning import warn_user


class FunctionName(str):
    """``package.module:function``, with the folder that is searched first for its module."""

    __slots__ = ("folder",)
    folder: str

    def __new__(cls, name: str, folder: str) -> FunctionName:
        made = super().__new__(cls, name)
        made.folder = folder
        return made


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
    """Folders and archives that the worker puts on its import path, where they exist there."""
    code: dict[str, Any] = field(default_factory=dict)
    """How this driver finds its code (JSON values): machine, prefix, python; path (whole), pins, script; and
    the file of the function's module."""

    @property
    def may_import_script(self) -> bool:
        return self.code.get("script") is not None


def describe(run_function: Callable[..., Any] | str, *, is_forwarded: bool = False) -> FunctionRef:
    """The reference of a callable, or of a string ``"package.module:function"`` (which is not imported).

    `is_forwarded`: the function runs in a backend's processes, which import no script.
    Warns of random generators that travel by value. Raises FunctionError for any other value, and for a
    callable that cannot be pickled.
    """
    if isinstance(run_function, str):
        return _describe_name(run_function)
    if not callable(run_function):
        raise FunctionError(
            f"run_function is {type(run_function).__name__!s}, not a function; "
            'give a callable or "package.module:function"'
        )
    named: Any = run_function
    while type(named).__name__ == "partial" and hasattr(named, "func"):
        named = named.func  # a partial goes by the name of what it wraps
    module = getattr(named, "__module__", None) or "__main__"
    qualname = getattr(named, "__qualname__", type(named).__qualname__)
    name = f"{module}:{qualname}"
    source = source_hash(run_function)
    path, folders = import_path()
    pins = find_pins(path)
    file = main_file() if module == "__main__" else getattr(sys.modules.get(module), "__file__", None)
    code = _code(path, pins, file)
    is_known = module != "__main__" and is_findable(module, path, pins)
    if is_known and not _is_to_travel(module) and _is_attribute(run_function, module, qualname):
        return FunctionRef(name, None, source, (*folders, *_module_root(module, folders)), code)
    folders = [*folders, *_module_root(module, folders)]
    is_script = module == "__main__" and "<" not in qualname and not is_forwarded
    script = find_script(run_function, qualname) if is_script else None
    payload: bytes | None = None
    from queue_eval.function.by_value import pickle_function  # it takes a while to import

    try:
        payload, generators = pickle_function(
            run_function, name, with_module=module != "__main__" and not is_known
        )
    except FunctionError:
        if script is None:
            raise
    else:
        if script is None and generators:
            _warn_of_generators(name, generators)
    if script is not None:
        code["script"] = script.as_json()
    return FunctionRef(name, payload, source, tuple(folders), code)


def _is_to_travel(module: str) -> bool:
    """Whether the user has asked cloudpickle to send the module's code by value. Then that is imported."""
    if "cloudpickle" not in sys.modules:
        return False
    from queue_eval.function.by_value import is_registered

    return is_registered(module)


def _describe_name(name: str) -> FunctionRef:
    module, function = split_name(name)
    path, folders = import_path(getattr(name, "folder", None))
    spec = find_fresh(module, path)
    if spec is None and find_fresh(module, [str(Path.cwd())]) is not None:
        # A user who types the name expects the working folder to be searched. It comes last, so that it hides
        # no other module.
        path, folders = [*path, str(Path.cwd())], [*folders, str(Path.cwd())]
        spec = find_fresh(module, path)
    file = spec.origin if spec is not None and spec.has_location else None
    pins = {} if hasattr(name, "folder") else find_pins(path)
    code = _code(path, pins, file)
    if spec is None:
        code["machine"] = ""  # this driver does not have the module, so workers search their own path, too
    return FunctionRef(str(name), None, _source_in_file(spec, function), tuple(folders), code)


def _code(path: Sequence[str], pins: dict[str, str], file: str | None) -> dict[str, Any]:
    return {
        "machine": machine_id(), "prefix": sys.prefix, "python": python_version(), "path": list(path),
        "pins": pins, "script": None, "file": file,
    }  # fmt: skip


def _warn_of_generators(name: str, generators: Sequence[str]) -> None:
    warn_user(
        f"{name} travels by value with {', '.join(generators)}, a random generator in its present state: "
        "jobs draw the same numbers; make the generator in the run function, or put what starts the search "
        "behind if __name__ == '__main__'"
    )


def _source_in_file(spec: importlib.machinery.ModuleSpec | None, function: str) -> str:
    """The hash of a function's code without an import: its module's file is compiled and searched."""
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


def _module_root(module: str, folders: Sequence[str]) -> list[str]:
    """The folder of the top package of `module`; empty if that is installed, or its folder is in
    `folders`."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or not isinstance(file, str) or is_installed(file):
        return []
    place = Path(os.path.abspath(file))  # noqa: PTH100 - symlinks stay
    root = place.parents[module.count(".") + (place.name == "__init__.py")]
    return [] if str(root) in folders or not root.is_dir() else [str(root)]


def _is_attribute(function: Any, module: str, qualname: str) -> bool:
    if "<" in qualname or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is function
