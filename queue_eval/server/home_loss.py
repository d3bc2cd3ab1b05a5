"""Detects that the folder of the embedded server in use was removed or replaced while that server lives.

Open connections go on then. But the server's socket cannot be reached any more, and its log is unlinked.
"""

from __future__ import annotations

from pathlib import Path

from queue_eval.server.watcher import HomeMark


class HomeLoss:
    """Watches the folder of the server in use; `tell` says once that it is gone.

    It ignores a home without a server of its own.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._mark = None if home is None or not (home / "server.json").exists() else HomeMark(str(home))

    def tell(self) -> str | None:
        """What has happened and what to do, once; else None."""
        if self._mark is None or not self._mark.is_gone():
            return None
        self._mark = None
        return (
            f"the folder {self._home} was removed or replaced while its server lives: nobody finds that "
            "server any more; bring the folder back, or begin the campaign again"
        )
