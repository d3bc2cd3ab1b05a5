"""The child's half of `PipedProcess`: makes a process die with its parent, whatever it is doing."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the other imports `enum`


CAN_BE_ARMED = hasattr(fcntl, "F_SETSIG")
"""Whether the kernel can kill the process group; else a thread must."""


def die_with_parent(lifeline_fd: int) -> None:
    """Have the kernel send SIGKILL to this process group when the parent's end of the pipe closes: even
    while user code holds the GIL."""
    os.set_inheritable(lifeline_fd, False)
    if CAN_BE_ARMED:
        arm(lifeline_fd, os.getpgrp())
        try:
            gone = os.read(lifeline_fd, 1) == b""  # the parent may have died before the signal was armed
        except BlockingIOError:
            gone = False
        if gone:
            os._exit(1)
        return

    import threading

    def watch() -> None:
        os.read(lifeline_fd, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def arm(lifeline_fd: int, group: int) -> None:
    """Have the kernel send SIGKILL to a process group when the other end of the pipe closes. The parent may
    call this for the child: it arms the pipe's end, not the process that holds it."""
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, -group)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
