"""How much of something is used, in a few characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(part: float | None, whole: float | None) -> str:
    """`part` of `whole`, as 42%; empty where one is not known."""
    return "" if part is None or not whole else f"{100 * part / whole:.0f}%"


def load(worker: Mapping[str, Any]) -> str:
    return percent(worker.get("load"), 1.0)


def memory(worker: Mapping[str, Any]) -> str:
    return percent(worker.get("memory_used"), worker.get("memory_total"))


def gpus(worker: Mapping[str, Any]) -> str:
    """Of each GPU how much of the time it works, and how much of its memory is taken."""
    found = []
    for gpu in worker.get("gpus") or ():
        util, held = gpu["util"], percent(gpu["memory_used"], gpu["memory_total"])
        found.append(("?" if util is None else f"{util:.0f}%") + (f"/{held}" if held else ""))
    return " ".join(found)


def mean(values: list[float]) -> str:
    return percent(sum(values) / len(values), 1.0) if values else ""
