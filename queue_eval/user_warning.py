"""Warnings to the user of a driver: each points at the user's own line that led to it."""

from __future__ import annotations

import sys
import warnings

from queue_eval.foreign_text import printable
from queue_eval.own_files import is_own


def warn_user(sentence: str) -> None:
    """Warn (UserWarning) from the innermost frame that is none of ours.

    However deep in the package its reason is found, the user sees a call of theirs, and Python shows it once
    for each such line. In a thread of ours there is no such call.
    """
    level = 2
    frame = sys._getframe(1)
    while is_own(frame.f_code.co_filename) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    warnings.warn(printable(sentence.replace("\n", " ")), UserWarning, stacklevel=level)
