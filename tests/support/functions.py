"""Run functions that workers import."""

from __future__ import annotations

from typing import Any


def run(config: dict[str, Any]) -> Any:
    return config["x"]


def number(config: dict[str, Any]) -> Any:
    """The float that the text `value` means; with `inside`, in a dict."""
    value = float(config["value"])
    return {"loss": value} if config.get("inside") else value
