"""Findings as plain text."""

from __future__ import annotations

from typing import Any


def as_text(document: dict[str, Any]) -> str:
    """The findings as aligned columns, one section after the other."""
    machine = document["machine"]
    load = ", ".join(f"{load:g}" for load in machine["load_average"])
    lines = [
        f"{machine['cores']} cores {machine['processor']}, {machine['memory_gb']} GB, {machine['system']}",
        f"Python {machine['python']}, {machine['server']}, queue_eval {machine['queue_eval']}",
        f"{machine['at']}, load average before {load}",
    ]
    for name, found in document["scenarios"].items():
        lines += ["", f"{name}: {found['title']}", *_table(found["rows"])]
        lines += [f"  {line}" for line in found["missing"]]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [(row["what"], f"{number(row['value'])} {row['unit']}".rstrip(), _remark(row)) for row in rows]
    what = max((len(row[0]) for row in cells), default=0)
    value = max((len(row[1]) for row in cells), default=0)
    return [f"  {a:<{what}}  {b:>{value}}  {c}".rstrip() for a, b, c in cells]


def _remark(row: dict[str, Any]) -> str:
    parts = [row["note"]] if row["note"] else []
    if "goal" in row:
        parts.append(f"goal {row['goal']}: {'met' if row['met'] else 'NOT MET'}")
    return "; ".join(parts)


def number(value: float) -> str:
    """Three digits or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
