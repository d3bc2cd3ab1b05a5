"""Logs an error that occurs again and again once a minute: a flooded log hides everything else."""

from __future__ import annotations

import logging
import threading
import time

from queue_eval.errors import NodeAwayError, QueueEvalError

_REPEAT_AFTER_S = 60.0

_MAX_REMEMBERED = 1000
"""How many errors are remembered; then all are forgotten."""


class RepeatedLog:
    """Logs errors about subjects (a campaign, a key). May be used from several threads."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._silent_until: dict[tuple[str, str], float] = {}

    def add(self, subject: str, error: BaseException) -> None:
        """Log this error of `subject`, unless it was logged within the last minute."""
        if isinstance(error, NodeAwayError):
            self._log.debug("%s: %s", subject, error)
            return  # the link logs it once for all campaigns on that node
        now = time.monotonic()
        entry = (subject, str(error))
        with self._lock:
            if now < self._silent_until.get(entry, 0.0):
                return
            if len(self._silent_until) >= _MAX_REMEMBERED:
                self._silent_until.clear()
            self._silent_until[entry] = now + _REPEAT_AFTER_S
        # Errors of our own say everything in their text, and need no traceback.
        is_known = isinstance(error, QueueEvalError)
        self._log.error("%s: %s", subject, error, exc_info=None if is_known else error)
