"""Lets a process find user code as the driver does: import path, scripts, and the files that loading reaches.

::

    driver: `reference` ──▶ options of the campaign ──▶ worker: `Setup.code` ──▶ here

`code` comes from the driver (JSON values, see `FunctionRef.code`). The worker adds `exact`: whether it runs
on the driver's machine. The processes that run user code import this module, so it imports next to nothing.
It is also sent by value to processes that have no queue_eval, so a function here may use names of this module
only.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

SCRIPT_MODULE = "__mp_main__"
"""The name of a script's module while it is imported, as multiprocessing names it."""

_MAIN = "__main__"
_MAX_FILES = 1000
"""How many files count towards a source."""

_LARGE_BYTES = 4 * 2**20
_END_BYTES = 2**18
"""Of files larger than the first size only the ends are read, each of the second size: they are compiled
modules, and the method `subprocess` reads them for each attempt."""


def python_version() -> str:
    """Implementation and version of Python, as far as code by value depends on it."""
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def digest(data: bytes) -> str:
    from _blake2 import blake2b  # hashlib would load OpenSSL

    return blake2b(data, digest_size=8).hexdigest()


def digest_file(path: str) -> str:
    """The digest of a file; of a large one, that of its size and ends. Raises OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - no pathlib in this process
        size = os.fstat(file.fileno()).st_size
        if size <= _LARGE_BYTES:
            return digest(file.read())
        first = file.read(_END_BYTES)
        file.seek(size - _END_BYTES)
        return digest(b"%d " % size + first + file.read())


def is_installed(file: str) -> bool:
    """Whether a file is not the user's, but of the standard library, an installed package or this one."""
    return (
        "/site-packages/" in file
        or "/dist-packages/" in file
        or file.startswith((os.path.dirname(os.__file__) + os.sep, _OURS, "<"))  # noqa: PTH120
    )


# Not taken from `queue_eval.own_files`, because this module is also sent by value.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120


# The import path ------------------------------------------------------------------------------------------


def is_as_in_driver(code: dict[str, Any] | None) -> bool:
    """Whether this process is on the driver's machine and has its interpreter."""
    if code is None or not code.get("exact"):
        return False
    return bool(code["prefix"] == sys.prefix and code["python"] == python_version())


def set_import_path(path: Iterable[str], code: dict[str, Any] | None) -> None:
    """Set the import path of this process to the driver's.

    On the driver's machine and with its interpreter it is the same. Elsewhere the driver's user folders that
    exist here (`path`) stand before the path of this process.
    """
    if code is not None and is_as_in_driver(code):
        sys.path[:] = code["path"]
    else:
        first = [folder for folder in path if os.path.exists(folder)]  # noqa: PTH110 - no pathlib here
        sys.path[:] = [*first, *(folder for folder in sys.path if folder not in first)]
    pins = (code or {}).get("pins")
    if pins:
        sys.meta_path[:] = [_Pins(pins), *(f for f in sys.meta_path if type(f).__name__ != "_Pins")]


class _Pins:
    """Finds the modules that the driver has from files to which its path does not lead."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        file = self._files.get(name)
        if file is None or not os.path.exists(file):  # noqa: PTH110 - no pathlib in this process
            return None
        import _frozen_importlib_external as external  # importlib.util takes a while to import

        is_package = os.path.basename(file).startswith("__init__.")  # noqa: PTH119
        folders = [os.path.dirname(file)] if is_package else None  # noqa: PTH120
        return external.spec_from_file_location(name, file, submodule_search_locations=folders)


# Scripts --------------------------------------------------------------------------------------------------


def read_script(code: dict[str, Any] | None) -> bytes | None:
    """The content of the function's script; None unless it is here as the driver has it."""
    script = (code or {}).get("script")
    if not script or not is_as_in_driver(code):
        return None
    try:
        with open(script["file"], "rb") as file:  # noqa: PTH123 - no pathlib in this process
            source = file.read()
    except OSError:
        return None
    return source if digest(source) == script["digest"] else None


def import_script(script: dict[str, Any], source: bytes) -> ModuleType:
    """Import the driver's script as a module. What stands in its main guard does not run.

    Afterwards `__main__` is this module, and its classes and functions have that module name. So what is
    pickled here can be read where the script runs as the main module, or is imported as that.
    """
    import _frozen_importlib as importlib  # importlib itself takes a while to import
    import _frozen_importlib_external as external

    sys.argv[:] = script["argv"]
    file, name = script["file"], script["spec"]
    if name:
        parent = name.rpartition(".")[0]
        if parent:
            __import__(parent)  # as `python -m` does
    module = type(sys)(SCRIPT_MODULE)
    module.__file__ = file
    module.__loader__ = external.SourceFileLoader(SCRIPT_MODULE, file)
    module.__spec__ = None
    if name:
        module.__spec__ = importlib.ModuleSpec(name, external.SourceFileLoader(name, file), origin=file)
        module.__package__ = parent
    sys.modules[_MAIN] = sys.modules[SCRIPT_MODULE] = module
    # Compiled from the source, as the driver's main module was: a cached compilation may be of an older
    # source that was changed within the same second.
    exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's script
    for value in list(vars(module).values()):
        _rename(value)
    return module


def forget_script() -> None:
    """Undo what a failed import of the script has left."""
    sys.argv[:] = [""]
    sys.modules.pop(SCRIPT_MODULE, None)
    sys.modules[_MAIN] = type(sys)(_MAIN)


def _rename(value: Any) -> None:
    """Give a class or function of the script the module name `__main__`."""
    is_named = isinstance(value, (type, type(_rename))) or type(value).__name__ == "_lru_cache_wrapper"
    if not is_named or value.__module__ != SCRIPT_MODULE:
        return
    try:
        value.__module__ = _MAIN
    except (AttributeError, TypeError):  # a class may refuse
        return
    if isinstance(value, type):
        for inner in list(vars(value).values()):
            if isinstance(inner, type):
                _rename(inner)
    elif hasattr(value, "__wrapped__"):
        _rename(value.__wrapped__)


def fill_main(function: Any) -> None:
    """Fill the empty main module of this process with the globals of a function by value.

    So classes and functions of its script can be pickled by name in its jobs.
    """
    main = sys.modules.get(_MAIN)
    if main is None or hasattr(main, "__file__"):  # a backend's process, which has a main module of its own
        return
    found = globals_of(function)
    if found is None or found.get("__name__") != _MAIN:
        return
    for name, value in found.items():
        # The script's `__file__` is left out: with it, multiprocessing would run the script in its children.
        if not name.startswith("__"):
            setattr(main, name, value)
    for value in list(vars(main).values()):
        _qualify(value, main)
    inner = innermost(function)
    if getattr(inner, "__module__", None) == _MAIN and "<" not in getattr(inner, "__qualname__", "<"):
        main.__dict__.setdefault(inner.__qualname__, inner)


def _qualify(value: Any, main: ModuleType) -> None:
    """Give the classes within a class their qualified name, which cloudpickle drops."""
    if not isinstance(value, type) or value.__module__ != _MAIN:
        return
    for name, inner in list(vars(value).items()):
        is_inner = isinstance(inner, type) and inner.__module__ == _MAIN and inner.__qualname__ == name
        if is_inner and getattr(main, name, None) is not inner:
            inner.__qualname__ = f"{value.__qualname__}.{name}"
            _qualify(inner, main)


def innermost(function: Any) -> Any:
    """The function that decorators and partials wrap."""
    for _ in range(100):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
        if inner is None:
            break
        function = inner
    return function


def globals_of(function: Any) -> dict[str, Any] | None:
    """The globals of a function, a method or an object with a __call__ of its own."""
    inner = innermost(function)
    found = getattr(inner, "__globals__", None)
    if found is None:
        called = getattr(inner, "__func__", None) or getattr(type(inner), "__call__", None)  # noqa: B004
        found = getattr(called, "__globals__", None)
    return found if isinstance(found, dict) else None


# What loading reaches -------------------------------------------------------------------------------------


def files_reached(before: Iterable[str]) -> dict[str, list[str]]:
    """Module -> [file, digest], for each module that is not installed and was not imported `before`."""
    known = set(before)
    reached: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        if name in known or name == SCRIPT_MODULE:
            continue
        found = file_of(module)
        if found is not None and len(reached) < _MAX_FILES:
            reached[name] = found
    main = sys.modules.get(_MAIN)
    if main is not None and main is sys.modules.get(SCRIPT_MODULE) and (found := file_of(main)) is not None:
        reached[_MAIN] = found
    return reached


def file_of(module: Any) -> list[str] | None:
    """[file, digest] of a module that is not installed; None for all others."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or is_installed(file):
        return None
    named = file.encode("utf-8", "replace").decode()
    try:
        return [named, digest_file(file)]
    except OSError:
        pass
    try:  # in an archive
        return [named, digest(module.__loader__.get_data(file))]
    except Exception:  # the file is gone, or the loader cannot read it
        return None


def combine(function: str, parts: Iterable[str], files: dict[str, list[str]]) -> str:
    """One hash (8 hex digits) for the code that gives a result. Names and places of files do not count.

    `function`: hash of the run function; `parts`: those of the functions that came with it by value; `files`:
    the files that loading it reached (see `files_reached`).
    """
    more = sorted({*parts, *(found[1] for found in files.values())})
    return digest(" ".join([function, *more]).encode())[:8] if more else function


def sibling_hashes(function: Any, hash_of: Callable[[Any], str]) -> list[str]:
    """Hashes of the functions that came by value together with this one."""
    found = globals_of(function) or {}
    hashes = []
    for value in list(found.values()):
        inner = innermost(value) if callable(value) else None
        if isinstance(inner, type) and inner.__module__ == _MAIN:
            hashes += [hash_of(method) for method in vars(inner).values() if hasattr(method, "__code__")]
        elif getattr(inner, "__globals__", None) is found:
            hashes.append(hash_of(inner))
    return list(filter(None, hashes))
