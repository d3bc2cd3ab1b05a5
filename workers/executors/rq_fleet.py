"""Watches whether any RQ worker listens to a queue: RQ itself lets a queue wait without a word."""

from __future__ import annotations

from queue_eval.rq_bridge.commands import RqCommands
from queue_eval.transport.error_kinds import REDIS_ERRORS, is_barred

_LOOK_S = 2.0
"""How often to look. A fleet that is just being started is there at the second look."""


class FleetWatch:
    """Looks for the RQ workers of one queue. `url` is safe to show.

    Assumes: one thread. It does not notice a killed worker, which stays on RQ's register for eight minutes.
    """

    def __init__(self, commands: RqCommands, queue: str, url: str) -> None:
        self._commands = commands
        self._queue = queue
        self._url = url
        self._was_idle = False
        self._trouble = ""
        self.look_at = 0.0
        """When the next look is due (monotonic, s)."""

    def begin(self, now: float) -> None:
        """Begin to look: RQ's Redis is there, for the first time or again."""
        self._was_idle, self.look_at = False, now + _LOOK_S

    def look(self, now: float) -> str | None:
        """Why no RQ worker takes the jobs; "" when all is well; None when nothing has changed, or no look is
        due. Raises the client's errors."""
        if now < self.look_at:
            return None
        self.look_at = now + _LOOK_S
        trouble = self._describe()
        if trouble and not self._was_idle:
            self._was_idle = True
            return None
        self._was_idle = bool(trouble)
        if trouble == self._trouble:
            return None
        self._trouble = trouble
        return trouble

    def _describe(self) -> str:
        try:
            state = self._commands.fleet_state()
        except REDIS_ERRORS as error:
            if is_barred(error):
                return ""  # this Redis user has no right to look
            raise
        if state == "suspended":
            return f"the RQ workers at {self._url} are suspended; let them go on with: rq resume"
        if state == "absent":
            return (
                f"no RQ worker listens to queue {self._queue!r} at {self._url}; "
                f"start one with: rq worker -u URL {self._queue}"
            )
        return ""
