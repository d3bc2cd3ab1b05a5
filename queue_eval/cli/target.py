"""Finds and checks the function that `queue-eval run` is given, without an import of its module.

Only workers import the user's module: an import here could have side effects, or fail for want of a package.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from queue_eval.errors import FunctionError
from queue_eval.function.loading import split_name
from queue_eval.function.reference import FunctionName


@dataclass(frozen=True)
class Target:
    """A run function by its name. `script`: the file, if it was named by its file."""

    name: FunctionName
    """``package.module:function``"""
    script: Path | None


def find_target(text: str) -> Target:
    """The function that `text` names as MODULE:FUNCTION or FILE.py:FUNCTION.

    Raises FunctionError when there is no such file, module or function, as far as can be told.
    """
    place, colon, function = text.rpartition(":")
    if not colon and (text.endswith(".py") or "/" in text):
        raise FunctionError(f"{text!r} does not say which function; write it as {text}:FUNCTION")
    if not place.endswith(".py") and "/" not in place:
        module, function = split_name(text)
        _check(module, function, [str(Path.cwd()), *sys.path])
        return Target(FunctionName(text, str(Path.cwd())), None)
    script = Path(place).expanduser()
    if not script.is_file():
        raise FunctionError(f"there is no file {place!r}; write it as FILE.py:FUNCTION or MODULE:FUNCTION")
    if not script.stem.isidentifier() or script.stem in sys.stdlib_module_names or script.suffix != ".py":
        raise FunctionError(
            f"workers cannot import {script.name!r} by its name; rename it, like my_search.py"
        )
    script = script.absolute()
    module, function = split_name(f"{script.stem}:{function}")
    _check(module, function, [str(script.parent)])
    return Target(FunctionName(f"{module}:{function}", str(script.parent)), script)


def _check(module: str, function: str, path: list[str]) -> None:
    spec = _find(module, path)
    if spec is None:
        where = " or ".join(path[:1])
        raise FunctionError(
            f"there is no module {module!r} in {where} or among the installed ones; check the name"
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
    except OSError:
        return
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise FunctionError(f"{spec.origin}{line} is not valid Python ({reason}); mend it") from None
    names = _TopLevelNames()
    names.visit(tree)
    wanted = function.split(".")[0]
    if not names.are_dynamic and wanted not in names.found:
        close = difflib.get_close_matches(wanted, names.found, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "check the name"
        raise FunctionError(f"{spec.origin} defines no {wanted!r}; {hint}")


def _find(module: str, path: list[str]) -> ModuleSpec | None:
    """The module's spec; neither it nor a package above it is imported."""
    folders: list[str] | None = path
    spec = None
    if module == "__main__":
        return None  # in this process, it is our own module
    for depth, part in enumerate(module.split(".")):
        # Find it by its last part: with a dotted name, the finder would look for an imported parent.
        spec = PathFinder.find_spec(part, folders)
        if spec is None and depth == 0:
            # Built in, or known to an import hook, as packages in development are.
            spec = importlib.util.find_spec(part)
        if spec is None:
            # It may be an alias in sys.modules, such as os.path.
            return getattr(sys.modules.get(module), "__spec__", None)
        folders = list(spec.submodule_search_locations or [])
    return spec


class _TopLevelNames(ast.NodeVisitor):
    """The names that a module binds at its top level, by any statement."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.are_dynamic = False
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if not self._depth:
            self.found.add(node.name)
            self.are_dynamic |= node.name == "__getattr__"
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815
    visit_ClassDef = visit_FunctionDef  # noqa: N815

    def visit_ImportFrom(self, node: ast.ImportFrom | ast.Import) -> None:
        for alias in node.names:
            self.are_dynamic |= alias.name == "*"
            if not self._depth:
                self.found.add(alias.asname or alias.name.split(".")[0])

    visit_Import = visit_ImportFrom  # noqa: N815

    def visit_Global(self, node: ast.Global) -> None:
        self.found.update(node.names)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store) and not self._depth:
            self.found.add(node.id)
        self.are_dynamic |= node.id in ("globals", "setattr", "exec", "vars")
