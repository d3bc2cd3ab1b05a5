"""What the benchmarks evaluate: as little as possible, so that only overhead is left."""

from __future__ import annotations

from typing import Any


def no_op(config: dict[str, Any]) -> float:
    return float(config["x"])


def small_configs(first: int, count: int) -> list[dict[str, Any]]:
    """Configs of three fields, all different."""
    return [{"x": number, "rate": number / 7, "kind": "relu"} for number in range(first, first + count)]
