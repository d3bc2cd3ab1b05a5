"""Run functions that workers import."""

from __future__ import annotations

from typing import Any


def run(config: dict[str, Any]) -> Any:
    return config["x"]
