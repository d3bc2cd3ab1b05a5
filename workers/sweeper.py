"""Removes the folders of attempts and jobs that are over."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from queue_eval.foreign_text import plain
from queue_eval.runtime.trees import remove_tree
from workers.repeated_log import RepeatedLog

log = plain(logging.getLogger(__name__))


class Sweeper:
    """A thread of its own, which starts with the first folder: to remove a large one takes long."""

    def __init__(self) -> None:
        self._folders: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._repeated_log = RepeatedLog(log)
        self._thread = threading.Thread(target=self._work, name="sweeper", daemon=True)

    def remove(self, folder: Path) -> None:
        """Remove this folder soon, if it exists. May be called in any thread, and twice."""
        if self._thread.ident is None:
            self._thread.start()
        self._folders.put(folder)

    def close(self, timeout_s: float) -> None:
        """Wait for what is left to be removed, for so long at most."""
        if self._thread.ident is not None:
            self._folders.put(None)
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while (folder := self._folders.get()) is not None:
            try:
                remove_tree(folder)
            except OSError as error:  # `doctor --clean` finds it
                self._repeated_log.add(f"the folder {folder} cannot be removed", error)
