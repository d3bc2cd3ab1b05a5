"""Finds out where this driver has its modules from: its import path, or files to which that does not lead."""

from __future__ import annotations

import importlib.machinery
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from queue_eval.function.user_code import SCRIPT_MODULE, is_installed

_MAX_PINS = 1000


def import_path(first: str | None = None) -> tuple[list[str], list[str]]:
    """The import path of this process, made absolute, and its entries that are the user's own.

    `first`: a folder to look in before all others. The folder of installed programs is left out: it stands
    first on the path of a program that the user starts by its name.
    """
    scripts = sysconfig.get_path("scripts")
    found = [] if first is None else [first]
    for entry in sys.path:
        if isinstance(entry, str) and not _is_same(entry or ".", scripts):
            with suppress(OSError):  # the working directory may have been removed
                found.append(made_absolute(entry))
    found = list(dict.fromkeys(found))
    own = _own_folders()
    return found, [entry for entry in found if not _is_below(entry, own)]


def made_absolute(path: str) -> str:
    """An absolute path, as the import system makes it: no link is resolved, so that a module has the same
    file elsewhere."""
    if os.path.isabs(path):  # noqa: PTH117 - strings throughout
        return path
    return os.path.join(os.getcwd(), path) if path else os.getcwd()  # noqa: PTH109, PTH118


def _own_folders() -> list[str]:
    """The folders of the standard library and of installed packages, with symlinks followed."""
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    with suppress(Exception):  # there may be no site module, or no home
        folders += [*site.getsitepackages(), site.getusersitepackages()]
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    folders += [str(Path(folder).parent / zipped) for folder in folders[:2]]
    return [str(Path(folder).resolve()) for folder in folders]


def _is_below(entry: str, folders: Sequence[str]) -> bool:
    resolved = str(Path(entry).resolve())
    is_packages = Path(resolved).name in ("site-packages", "dist-packages")
    return is_packages or any(resolved == each or resolved.startswith(each + os.sep) for each in folders)


def _is_same(first: str, second: str) -> bool:
    with suppress(OSError):
        return Path(first).samefile(second)
    return False


def find_fresh(module: str, path: Sequence[str]) -> ModuleSpec | None:
    """The spec of what a process with this path would import as `module`. Nothing is imported."""
    folders: Sequence[str] | None = path
    spec = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = _find(name, folders)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    return spec


def _find(name: str, folders: Sequence[str] | None) -> ModuleSpec | None:
    finders: list[Any] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter]
    finders = [finder for finder in finders if "." not in name]
    # Finders of packages in development. Others are left out: they may look at what is imported already.
    finders += [each for each in sys.meta_path if _module_of(each).startswith("__editable__")]
    for finder in finders:
        with suppress(Exception):
            if (spec := finder.find_spec(name, None)) is not None:
                return spec  # type: ignore[no-any-return]
    # Only the last part of the name: for a dotted name the finder would look for the parent in `sys.modules`.
    return importlib.machinery.PathFinder.find_spec(name.rpartition(".")[2], folders)


def _module_of(finder: Any) -> str:
    kind = finder if isinstance(finder, type) else type(finder)
    return str(kind.__module__)


def find_pins(path: Sequence[str]) -> dict[str, str]:
    """Module -> file, for each module of the user's that `path` does not lead to.

    The driver has loaded it by its file, or the import path has changed since.
    """
    pins: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in ("__main__", SCRIPT_MODULE) or not isinstance(file, str) or is_installed(file):
            continue
        if not os.path.isfile(file) or len(pins) >= _MAX_PINS:  # noqa: PTH113 - strings throughout
            continue
        spec = _find_beside_parent(name, path)
        if spec is None or not spec.origin or not is_same_file(spec.origin, file):
            pins[name] = made_absolute(file)
    return pins


def _find_beside_parent(name: str, path: Sequence[str]) -> ModuleSpec | None:
    parent = name.rpartition(".")[0]
    if not parent:
        return _find(name, path)
    folders: Iterable[str] | None = getattr(sys.modules.get(parent), "__path__", None)
    return None if folders is None else _find(name, list(folders))


def is_same_file(first: str, second: str) -> bool:
    return first == second or _is_same(first, second)


def is_findable(module: str, path: Sequence[str], pins: dict[str, str]) -> bool:
    """Whether a process with this path and these pins has `module` as this one has it."""
    if module in pins:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    spec = _find_beside_parent(module, path)
    if spec is None:
        return file is not None and is_installed(file)  # it has a finder of its own
    return file is None or not spec.has_location or is_same_file(str(spec.origin), file)
