"""The folder of the embedded server in use is removed, or replaced, while that server lives.

Connections that there are go on, but by its socket it cannot be reached any more, and its log has no name.
"""

from __future__ import annotations

from pathlib import Path

from queue_eval.server.watcher import HomeMark


class HomeLoss:
    """Looks at the folder of a server that somebody uses; `tell` says once that it is gone.

    A home that has no server of its own has nothing to lose.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._mark = None if home is None or not (home / "server.json").exists() else HomeMark(str(home))

    def tell(self) -> str | None:
        if self._mark is None or not self._mark.is_gone():
            return None
        self._mark = None
        return (
            f"the folder {self._home} was removed or replaced while its server lives: nobody finds that "
            "server any more; bring the folder back, or begin the campaign again"
        )
