"""The proxy of `queue-eval chaos`, with more that only tests want of it."""

from __future__ import annotations

from typing import Any

from queue_eval.chaos.proxy import FaultProxy, Target


class StrandingProxy(FaultProxy):
    """It can also strand connections and lead to another server, and counts what is open and lost."""

    def __init__(self, target: Target) -> None:
        self.strikes = 0
        """Replies lost or cut so far."""
        self._stranded: set[Any] = set()
        super().__init__(target)

    @property
    def open_lines(self) -> int:
        """Connections that have not come to their end on both sides."""
        return len(self._lines)

    def strand(self) -> None:
        """Connections that are open stall, new ones are well. Once healed, what was sent before arrives after
        what was sent later."""

        def strand() -> None:
            self._heal()
            self._stranded = set(self._lines)

        self._call(strand)

    def retarget(self, target: Target) -> None:
        """New connections lead there."""

        def retarget() -> None:
            self._target = target

        self._call(retarget)

    def _heal(self) -> None:
        self._stranded = set()
        super()._heal()

    def _hit(self, *strike: Any) -> None:
        super()._hit(*strike)
        self.strikes += 1

    def _stalls(self, line: Any) -> bool:
        return line in self._stranded or super()._stalls(line)
