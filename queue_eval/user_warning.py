"""Warns the user of a driver. Each warning points at the user's own line that led to it."""

from __future__ import annotations

import sys
import warnings

from queue_eval.foreign_text import printable
from queue_eval.own_files import is_own


def warn_user(sentence: str) -> None:
    """Warn (UserWarning) from the innermost frame that is not in this package.

    However deep in the package the reason is found, the warning shows the user's own call, and Python shows
    it once for each such line. A thread of ours has no such call.
    """
    level = 2
    frame = sys._getframe(1)
    while is_own(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    warnings.warn(printable(sentence.replace("\n", " ")), UserWarning, stacklevel=level)
