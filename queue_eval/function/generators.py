"""Recognises random generators of libraries without an import of the library."""

from __future__ import annotations

from typing import Any

_GENERATORS = {
    ("numpy.random._generator", "Generator"), ("numpy.random.mtrand", "RandomState"), ("random", "Random"),
    ("torch._C", "Generator"), ("torch", "Generator"),
}  # fmt: skip
"""Module and name of their types."""


def is_generator(value: Any) -> bool:
    return any((kind.__module__, kind.__qualname__) in _GENERATORS for kind in type(value).__mro__)
