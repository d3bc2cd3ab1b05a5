"""Formats log records as JSON, one object in a line, for programs that collect logs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FIELDS = ("campaign", "job", "attempt", "seconds", "error", "counts")
"""What a record may have besides its message (`extra=` of `logging`); null in all others."""


class JsonFormatter(logging.Formatter):
    """Writes ASCII only, so that no control sequence of others' text comes through.

    `worker`: the name of the process that logs.
    """

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {name: getattr(record, name, None) for name in FIELDS}
        if record.exc_info and not fields["error"]:
            fields["error"] = record.exc_text or self.formatException(record.exc_info)
        entry = {
            "time": time, "level": record.levelname.lower(), "event": getattr(record, "event", "log"),
            "worker": self._worker, **fields, "message": record.getMessage(), "logger": record.name,
        }  # fmt: skip
        # DEL is the one control character that JSON allows in a string without an escape.
        return json.dumps(entry).replace("\x7f", "\\u007f")
