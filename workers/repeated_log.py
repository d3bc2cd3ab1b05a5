"""What goes wrong again and again is said once a minute: a log that is flooded hides all else."""

from __future__ import annotations

import logging
import threading
import time

from queue_eval.errors import NodeAwayError, QueueEvalError

_AGAIN_S = 60.0
_MOST = 1000


class RepeatedLog:
    """Logs errors about subjects (a campaign, a key). May be used from several threads."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], float] = {}

    def add(self, subject: str, error: BaseException) -> None:
        """Say that this is wrong with `subject`, unless it was said within the last minute."""
        if isinstance(error, NodeAwayError):
            self._log.debug("%s: %s", subject, error)
            return  # told once for all that lies there
        now = time.monotonic()
        told = (subject, str(error))
        with self._lock:
            if now < self._said.get(told, 0.0):
                return
            if len(self._said) >= _MOST:
                self._said.clear()
            self._said[told] = now + _AGAIN_S
        # What is raised on purpose says all there is to say.
        is_known = isinstance(error, QueueEvalError)
        self._log.error("%s: %s", subject, error, exc_info=None if is_known else error)
