"""Error texts for attempts that died, timed out or exceeded memory, shared by all executors."""

from __future__ import annotations

import signal

LOADING_S = 60.0
"""Loading the run function may take this long on top of the time limit of the attempts that wait for it."""

_MAX_SHOWN_OUTPUT_BYTES = 1000
"""How much of a dead process's last output its error text shows."""


CUT_OFF = (
    "its own code has closed the connection to its worker (as os.closerange() does) or written into it; "
    "touch only the files that the function has opened"
)
"""The `death` of a process that had to be killed because it could not report any more."""


def describe_exit(code: int) -> str:
    """An exit status as `subprocess` gives it: negative for a signal."""
    if code >= 0:
        return f"exit status {code}"
    if -code == signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory is short"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def describe_death(duty: str, death: str, output: bytes) -> bytes:
    """The text "the process that <duty> died", how, and the last that it has printed."""
    body = f"the process that {duty} died: {death}".encode()
    last = output[-_MAX_SHOWN_OUTPUT_BYTES:].strip()
    return body + b"; its last output:\n" + last if last else body


def describe_excess(limit: int, used: int, beside: int = 0) -> bytes:
    """The text for an attempt that exceeded its memory. `limit`, `used`: bytes. `beside`: how many other
    attempts were in its process."""
    text = f"used more than its memory limit of {size(limit)}: {size(used)}"
    return (f"{text}, with {beside} other jobs in the same process" if beside else text).encode()


def size(count: int) -> str:
    """Bytes as people write them: 2 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def describe_lateness(limit_s: float, *, was_ready: bool = True) -> bytes:
    """The text for an attempt that reached its time limit, maybe before its run function was loaded."""
    did = "ran" if was_ready else "was still loading its run function"
    return f"{did} longer than its time limit of {limit_s:g} s".encode()
