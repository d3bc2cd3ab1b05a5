"""Run functions that workers import."""

from __future__ import annotations

from typing import Any


def run(config: dict[str, Any]) -> Any:
    return config["x"]


def number(config: dict[str, Any]) -> Any:
    """The float that the text `value` means; with `inside`, in a dict."""
    value = float(config["value"])
    return {"loss": value} if config.get("inside") else value


def diverging(config: dict[str, Any]) -> float:
    """A loss with its least at lr = 0.1 that is a number from 0.01 to 0.3 only."""
    lr = config["lr"]
    if lr < 0.01:
        raise ValueError(f"no progress with lr={lr}")
    if lr > 0.3:
        return float("nan" if lr > 0.6 else "inf")
    return float((lr - 0.1) ** 2)
