"""Ctrl-C while the program is still being loaded."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly_interrupted() -> Iterator[None]:
    """Ctrl-C meanwhile ends the process at once, with status 130.

    Assumes that nothing has begun that needs an end. A KeyboardInterrupt that is raised within an import may
    come out of it as another error.
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
