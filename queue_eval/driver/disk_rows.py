"""Rows of a table that is larger than memory: on disk, to be read as often as is needed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class SpilledRows:
    """Rows of JSON values, in several dicts per row; what is no JSON is text. Gone when it is."""

    def __init__(self, rows: Iterable[tuple[dict[str, Any], ...]], folder: Path) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)  # noqa: SIM115 - it lives on
        self._count = 0
        for row in rows:
            try:
                text = json.dumps(row, default=str)
            except (TypeError, ValueError, RecursionError):  # a callable of the user's gave it
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
