"""Finds out what a script changes in place within its main guard: an import of it lacks these changes.

A guard that fills a dictionary, sets an attribute of a class or calls a method of an object binds no name.
The guard is read, not run. In doubt a global counts as changed.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from queue_eval.function.generators import is_generator

_CONSTANT = (str, bytes, int, float, complex, bool, type(None), type(...), range, frozenset)

_HARMLESS_FUNCTIONS = frozenset(
    {
        "abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "format", "frozenset", "getattr",
        "hasattr", "int", "isinstance", "issubclass", "len", "list", "max", "min", "print", "range", "repr",
        "reversed", "round", "set", "sorted", "str", "sum", "tuple", "type", "zip",
    }
)  # fmt: skip
"""Functions of Python that change none of their arguments."""

_HARMLESS_METHODS = frozenset({"copy", "count", "format", "get", "index", "items", "keys", "values"})
"""Methods of containers that change nothing."""


class Changes:
    """What the guarded statements of a script, and what they use of it, may change in place.

    `without`: the name of the run function. It is left out, because only jobs run it.
    """

    def __init__(self, tree: ast.Module, guarded: Iterable[ast.stmt], without: str) -> None:
        self.is_unknown = False
        """Whether globals may be bound by other means than their names. Then any of them may have changed."""
        self._set_on: set[str] = set()
        """Globals of which an item or an attribute is set or deleted."""
        self._handed: dict[str, list[list[ast.expr]]] = {}
        """Global -> the ways from it to values that are handed on: to a call, a name, or the object of a
        method."""
        definitions: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                definitions.setdefault(statement.name, []).append(statement)
        waiting, seen = list(guarded), {without}
        while waiting:
            for node in ast.walk(waiting.pop()):
                self._note(node)
                if isinstance(node, ast.Name) and node.id not in seen:
                    seen.add(node.id)
                    waiting += definitions.get(node.id, [])

    def may_change(self, name: str, value: Any) -> bool:
        """Whether this global may differ from what an import gives."""
        if isinstance(value, ModuleType) or is_generator(value):
            return False  # changes of these do not travel by value, either
        if name in self._set_on:
            return True
        if isinstance(value, (type, FunctionType, BuiltinFunctionType, logging.Logger)):
            return False
        return any(not is_constant(_follow(value, way)) for way in self._handed.get(name, ()))

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            self._note_set(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Return)) and node.value:
            self._hand(node.value)
        elif isinstance(node, ast.Call):
            self._note_call(node)

    def _note_set(self, node: ast.expr) -> None:
        root, _ = _way(node)
        if isinstance(root, ast.Name):
            self._set_on.add(root.id)
        self.is_unknown |= _is_namespace(root)

    def _note_call(self, call: ast.Call) -> None:
        called = call.func
        function = called.id if isinstance(called, ast.Name) else ""
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        if isinstance(called, ast.Attribute) and called.attr not in _HARMLESS_METHODS:
            self._hand(called.value)
            self.is_unknown |= _is_namespace(called.value)
        if function in ("setattr", "delattr") and arguments:
            self._note_set(arguments[0])
        elif function == "exec":
            self.is_unknown = True
        elif function not in _HARMLESS_FUNCTIONS:
            for argument in arguments:
                self._hand(argument)

    def _hand(self, value: ast.expr) -> None:
        if isinstance(value, (ast.List, ast.Tuple, ast.Set)):
            for element in value.elts:
                self._hand(element)
        elif isinstance(value, ast.Dict):
            for element in value.values:
                self._hand(element)
        else:
            root, way = _way(value)
            if isinstance(root, ast.Name):
                self._handed.setdefault(root.id, []).append(way)


def _way(node: ast.expr) -> tuple[ast.expr, list[ast.expr]]:
    """The expression of which attributes and items are taken, and these in their order."""
    way: list[ast.expr] = []
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)):
        way.append(node)
        node = node.value
    return node, way[::-1]


def _follow(value: Any, way: Iterable[ast.expr]) -> Any:
    """The value at the end of a way, or the last one before it that is seen without running user code."""
    for node in way:
        space: Any = None
        key: Any = None
        if isinstance(node, ast.Attribute):
            space, key = getattr(value, "__dict__", None), node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            space, key = value, node.slice.value
        if type(space) is not dict or key not in space:
            break
        value = space[key]
    return value


def _is_namespace(node: ast.expr) -> bool:
    """Whether this is the dictionary of all globals."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "globals"


def is_constant(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(is_constant, value))
    return isinstance(value, _CONSTANT)
