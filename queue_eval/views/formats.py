"""How views write values: times, durations, JSON values in one line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from queue_eval.foreign_text import one_line
from queue_eval.model.codec import encode


def shorten(text: str, width: int = 60) -> str:
    """One line of at most `width` characters."""
    text = one_line(text[: 4 * width])
    return text if len(text) <= width else text[: width - 1] + "…"


def shown_value(value: Any, width: int = 60) -> str:
    """A JSON value in one short line."""
    return shorten(value if isinstance(value, str) else encode(value), width)


def iso(time_ms: float | None) -> str | None:
    """ISO 8601, UTC."""
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def shown_time(time_ms: float | None) -> str:
    return "-" if time_ms is None else f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def shown_duration(seconds: float | None) -> str:
    """A duration in a form like 350ms, 12.3s, 4m05s, 2h30m or 3d04h."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
