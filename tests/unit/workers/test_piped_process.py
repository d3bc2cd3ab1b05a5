"""A process that could be started, and could not be set up: nothing of it is left."""

from __future__ import annotations

import os
import selectors
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from queue_eval.runtime.lifeline import CAN_BE_ARMED
from workers.executors import piped_process
from workers.executors.piped_process import DEATHS_ARE_TOLD, PipedProcess


class _FullSelector(selectors.DefaultSelector):
    """Takes so many files and no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if len(self.get_map()) >= self._room:
            raise OSError("no room")
        return super().register(fileobj, events, data)


def _fail(*_: object) -> Any:
    raise OSError("no")


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _open_files() -> list[str]:
    return [path.name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@pytest.mark.skipif(not (CAN_BE_ARMED and DEATHS_ARE_TOLD), reason="Linux only: pidfd_open, F_SETSIG, /proc")
@pytest.mark.parametrize("where", ["arm", "pidfd_open", "set_blocking", 0, 1, 2])
def test_nothing_is_left_when_a_step_after_the_start_fails(monkeypatch, where):
    selector = _FullSelector(where if isinstance(where, int) else 3)
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    with selector:
        if where == "arm":
            monkeypatch.setattr(piped_process, "arm", _fail)
        elif isinstance(where, str):
            monkeypatch.setattr(piped_process.os, where, _fail)
        before, children = _open_files(), _children()
        with pytest.raises(OSError, match=r"^no"):
            PipedProcess(command, selector)
        monkeypatch.undo()
        assert _open_files() == before
        assert not selector.get_map()
        assert _children() <= children  # workers that other tests have hired end when they are idle


@pytest.mark.skipif(not DEATHS_ARE_TOLD, reason="Linux only: /proc")
@pytest.mark.parametrize("calls", [0, 1])
def test_nothing_is_left_when_no_file_is_to_be_had(monkeypatch, calls):
    real, left = os.pipe, [calls]

    def pipe() -> tuple[int, int]:
        if not left[0]:
            raise OSError("no file")
        left[0] -= 1
        return real()

    with selectors.DefaultSelector() as selector:
        monkeypatch.setattr(piped_process.os, "pipe", pipe)
        before = _open_files()
        with pytest.raises(OSError, match=r"^no file"):
            PipedProcess([sys.executable], selector)
        monkeypatch.undo()
        assert _open_files() == before
