"""Decides whether workers can get a run function by importing the driver's script, as multiprocessing does.

Two conditions must hold. The script has a main guard, and the driver was started within it: else an import
would start the search again. And an import gives all that the function uses the same values: it does not run
what stands within the guard.
"""

from __future__ import annotations

import ast
import dis
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import _lru_cache_wrapper, cached_property, partial
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from queue_eval.function.driver_path import made_absolute
from queue_eval.function.script_changes import Changes, is_constant
from queue_eval.function.user_code import digest, innermost

_MAX_PARTS = 1000
"""Containers with more elements are not searched: they hold data, and no functions."""

_MAX_VALUES = 20_000
"""How many values are searched, the nearest to the function first."""


@dataclass(frozen=True)
class Script:
    """A script that the processes import which run its function."""

    file: str
    digest: str
    spec: str
    """The module's name when the script was started by it (`python -m`); else empty."""

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "digest": self.digest, "spec": self.spec, "argv": list(sys.argv)}


def main_file() -> str | None:
    """The file of the driver's main module; None in a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return made_absolute(file) if isinstance(file, str) else None


def find_script(function: Any, qualname: str) -> Script | None:
    """The script to import for a function of the main module; None when the function must travel by value."""
    main, file = sys.modules["__main__"], main_file()
    if file is None or not _is_from(function, file):
        return None
    try:
        source = Path(file).read_bytes()
        parts = _Parts(ast.parse(source, file), file, qualname)
    except (OSError, SyntaxError, ValueError):
        return None
    if not parts.guards or not _was_called_within(parts.guards, main, file):
        return None
    if not _is_defined(function, qualname, main, parts) or not _is_complete(function, main, parts):
        return None
    spec = getattr(main, "__spec__", None)
    return Script(file, digest(source), getattr(spec, "name", None) or "")


class _Parts:
    """The names that a script binds when it is imported, and those that its main guard binds."""

    def __init__(self, tree: ast.Module, file: str, function: str) -> None:
        outside: list[ast.stmt] = []
        inside: list[ast.stmt] = []
        self.guards: list[range] = []
        for statement in tree.body:
            if isinstance(statement, ast.If) and _is_guard(statement.test):
                self.guards.append(range(statement.body[0].lineno, (statement.body[-1].end_lineno or 0) + 1))
                inside += statement.body
                outside += statement.orelse
            else:
                outside.append(statement)
        imported = compile(ast.Module(outside, []), file, "exec", dont_inherit=True)
        guarded = compile(ast.Module(inside, []), file, "exec", dont_inherit=True)
        self.bound, self.is_dynamic = _stores(imported)
        self.rebound = _stores(guarded)[0]
        for code in (*_codes(imported), *_codes(guarded)):
            if code is not imported:
                self.rebound |= _stores(code, "STORE_GLOBAL")[0]
        self.changes = Changes(tree, inside, function.partition(".")[0])
        self.literals: dict[str, Any] = {}
        for statement in outside:
            self._note_literal(statement)

    def _note_literal(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    with suppress(ValueError, TypeError):
                        self.literals[target.id] = ast.literal_eval(statement.value)

    def is_as_imported(self, name: str, value: Any) -> bool:
        """Whether a global has the value that an import of the script gives it, as far as can be told."""
        if name not in self.bound:
            return self.is_dynamic
        if name not in self.rebound and not self.changes.may_change(name, value):
            return True
        literal = self.literals.get(name, ...)
        # Their texts are compared, too: within a list, 1 equals True.
        return type(literal) is type(value) and literal == value and repr(literal) == repr(value)


def _is_guard(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_is_guard(value) for value in test.values)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return False
    sides = (test.left, test.comparators[0])
    is_name = any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)
    return is_name and any(isinstance(side, ast.Constant) and side.value == "__main__" for side in sides)


def _stores(code: CodeType, *kinds: str) -> tuple[set[str], bool]:
    """The names that a code object binds, and whether there may be others (`import *`)."""
    names: set[str] = set()
    is_dynamic = False
    for step in dis.get_instructions(code):
        if step.opname in (kinds or ("STORE_NAME", "STORE_GLOBAL")):
            names.add(step.argval)
        is_dynamic |= step.opname == "IMPORT_STAR" or step.argrepr == "INTRINSIC_IMPORT_STAR"
    return names, is_dynamic


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _was_called_within(guards: Iterable[range], main: ModuleType, file: str) -> bool:
    """Whether the script called us from within a main guard, and not from lines that an import runs, too."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        is_top = frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)
        if is_top and _is_same(frame.f_code.co_filename, file):
            return any(frame.f_lineno in lines for lines in guards)
        frame = frame.f_back
    return True  # in a thread, or at the prompt that follows a script


def _is_from(function: Any, file: str) -> bool:
    code = getattr(innermost(function), "__code__", None)
    return isinstance(code, CodeType) and _is_same(code.co_filename, file)


def _is_same(first: str, second: str) -> bool:
    return os.path.abspath(first) == os.path.abspath(second)  # noqa: PTH100 - symlinks stay


def _is_defined(function: Any, qualname: str, main: ModuleType, parts: _Parts) -> bool:
    """Whether an import of the script binds this very function to its name."""
    first, *_ = qualname.split(".")
    found: Any = main
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is function and parts.is_as_imported(first, vars(main).get(first))


def _is_complete(function: Any, main: ModuleType, parts: _Parts) -> bool:
    """Whether all globals that the function reaches are as an import of the script leaves them."""
    space = vars(main)
    if parts.changes.is_unknown:
        return False
    reached = _names_reached(function, space, parts.bound - parts.rebound)
    return all(parts.is_as_imported(name, space[name]) for name in reached)


def _names_reached(function: Any, space: dict[str, Any], kept: set[str]) -> set[str]:
    """The names in `space` whose values a function may use.

    These are the globals that it refers to by name, or that functions refer to which it reaches. With them
    are those names of `kept` whose value it reaches in another way, such as the class of an object or an
    alias.
    """
    reached: set[str] = set()
    waiting = deque([function])
    seen: dict[int, Any] = {}
    names_of: dict[int, set[str]] = {}
    for name in kept & space.keys():
        if not is_constant(space[name]):
            names_of.setdefault(id(space[name]), set()).add(name)
    while waiting and len(seen) < _MAX_VALUES:
        value = waiting.popleft()  # the nearest first
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept alive, so that no other value gets its id
        reached |= names_of.get(id(value), set())
        if isinstance(value, FunctionType) and value.__globals__.get("__name__") == "__main__":
            for code in _codes(value.__code__):
                names = {name for name in code.co_names if name in space and not name.startswith("__")}
                waiting += [space[name] for name in names - reached]
                reached |= names
        waiting += _parts_of(value)
    return reached


def _parts_of(value: Any) -> list[Any]:
    """What a call of this value may use in turn, as far as that is seen without running user code."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        if type(value).__module__ not in ("builtins", "collections"):
            return [type(value)]  # to iterate over it may run user code
        parts = value.values() if isinstance(value, dict) else value
        return [part for part in parts if not is_constant(part)] if len(value) <= _MAX_PARTS else []
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return [*cells, value.__defaults__, value.__kwdefaults__, value.__dict__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, type):
        return [*vars(value).values(), *value.__mro__[1:]] if value.__module__ == "__main__" else []
    if isinstance(value, (MethodType, staticmethod, classmethod, cached_property, _lru_cache_wrapper)):
        return [getattr(value, name, None) for name in ("__func__", "__self__", "__wrapped__", "func")]
    return [type(value)]


def _is_empty(cell: CellType) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:
        return True
