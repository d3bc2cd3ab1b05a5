"""Random generators of libraries, which are known without an import of these."""

from __future__ import annotations

from typing import Any

_GENERATORS = {
    ("numpy.random._generator", "Generator"), ("numpy.random.mtrand", "RandomState"), ("random", "Random"),
    ("torch._C", "Generator"), ("torch", "Generator"),
}  # fmt: skip
"""Their types, by module and name."""


def is_generator(value: Any) -> bool:
    return any((kind.__module__, kind.__qualname__) in _GENERATORS for kind in type(value).__mro__)
