"""The driver's script: whether its run function can be had by importing it, as multiprocessing's spawn does.

It can when the script has a main guard, and this driver was started within it: then nothing of the search is
begun anew by an import. And when what the function uses is there after an import, with the same values: what
the guard has set is not.
"""

from __future__ import annotations

import ast
import dis
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from queue_eval.driver_path import made_absolute
from queue_eval.user_code import digest, innermost


@dataclass(frozen=True)
class Script:
    """A script as those import it that run its function."""

    file: str
    digest: str
    spec: str
    """The module's name, when it was started by it (`python -m`); else empty."""

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "digest": self.digest, "spec": self.spec, "argv": list(sys.argv)}


def main_file() -> str | None:
    """The file of the driver's main module; None in a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return made_absolute(file) if isinstance(file, str) else None


def find_script(function: Any, qualname: str) -> Script | None:
    """The script to import for a function of the main module; None when it must travel by value."""
    main, file = sys.modules["__main__"], main_file()
    if file is None or not _is_from(function, file):
        return None
    try:
        source = Path(file).read_bytes()
        parts = _Parts(ast.parse(source, file), file)
    except (OSError, SyntaxError, ValueError):
        return None
    if not parts.guards or not _was_called_within(parts.guards, main, file):
        return None
    if not _is_defined(function, qualname, main, parts) or not _is_complete(function, main, parts):
        return None
    spec = getattr(main, "__spec__", None)
    return Script(file, digest(source), getattr(spec, "name", None) or "")


class _Parts:
    """What a script binds when it is imported, and what only within its main guard."""

    def __init__(self, tree: ast.Module, file: str) -> None:
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
        self.literals: dict[str, Any] = {}
        for statement in outside:
            self._note_literal(statement)

    def _note_literal(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant):
                    self.literals[target.id] = statement.value.value

    def is_as_imported(self, name: str, value: Any) -> bool:
        """Whether a global has the value that an import of the script gives it, as far as can be told."""
        if name not in self.bound:
            return self.is_dynamic
        if name not in self.rebound:
            return True
        literal = self.literals.get(name, ...)
        return type(literal) is type(value) and literal == value


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
    for one in dis.get_instructions(code):
        if one.opname in (kinds or ("STORE_NAME", "STORE_GLOBAL")):
            names.add(one.argval)
        is_dynamic |= one.opname == "IMPORT_STAR" or one.argrepr == "INTRINSIC_IMPORT_STAR"
    return names, is_dynamic


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _was_called_within(guards: Iterable[range], main: ModuleType, file: str) -> bool:
    """Whether this is not called by what an import of the script would run, too."""
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


def _is_same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100 - symlinks stay


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
    return all(parts.is_as_imported(name, space[name]) for name in names_reached(function, space))


def names_reached(function: Any, space: dict[str, Any]) -> set[str]:
    """Globals of `space` that a function refers to, with those that its like there refer to."""
    reached: set[str] = set()
    waiting = [function]
    while waiting:
        for code in _codes_of(waiting.pop()):
            for inner in _codes(code):
                for name in inner.co_names:
                    if name in space and name not in reached and not name.startswith("__"):
                        reached.add(name)
                        waiting.append(space[name])
    return reached


def _codes_of(value: Any) -> list[CodeType]:
    inner = innermost(value) if callable(value) and not isinstance(value, type) else value
    if isinstance(inner, FunctionType):
        return [inner.__code__]
    if isinstance(inner, type) and inner.__module__ == "__main__":
        members = [getattr(one, "__func__", getattr(one, "fget", one)) for one in vars(inner).values()]
        return [one.__code__ for one in members if isinstance(one, FunctionType)]
    return []
