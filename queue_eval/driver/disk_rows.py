"""Rows of a table that is larger than memory. They are kept on disk, and can be read repeatedly."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class SpilledRows:
    """Rows of JSON values, each of several dicts. Other values become text. `close` deletes the file."""

    def __init__(self, rows: Iterable[tuple[dict[str, Any], ...]], folder: Path) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)  # noqa: SIM115 - `close` closes it
        self._count = 0
        for row in rows:
            try:
                text = json.dumps(row, default=str)
            except (TypeError, ValueError, RecursionError):  # A callable of the user's gave the row.
                parts = [{c: _storable(value) for c, value in part.items()} for part in row]
                text = json.dumps(parts, default=str)
            self._file.write(text + "\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def close(self) -> None:
        self._file.close()


def _storable(value: Any) -> Any:
    try:
        json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
