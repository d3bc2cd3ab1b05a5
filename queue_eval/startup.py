"""Handles Ctrl-C while the program is still being loaded."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly_interrupted() -> Iterator[None]:
    """Let Ctrl-C within end the process at once, with status 130.

    A KeyboardInterrupt that is raised within an import may come out of it as another error.
    Assumes: nothing has begun yet that needs cleaning up.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
