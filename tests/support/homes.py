"""The record of a home, and a connection to its server as the user who may do everything."""

from __future__ import annotations

from pathlib import Path

from queue_eval.server.home import Record, ServerHome
from queue_eval.transport.wire import Wire


def record_of(home: Path) -> Record:
    record = ServerHome(home).read()
    assert record is not None
    return record


def wire_to(home: Path) -> Wire:
    record = record_of(home)
    return Wire(record.socket, record.password)
