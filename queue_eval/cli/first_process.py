"""What `queue-eval worker` does when it is the first process of a container (process id 1).

The kernel makes the first process the parent of every process whose own parent has ended, and only a parent
can remove a dead process. A worker must not wait for processes that it does not know: it would take the exit
status of its own children from the code that waits for them. So the worker goes on in a child process. The
first process stays behind: it waits for whatever ends, and hands signals on. It ends with the worker, and
with its exit status.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def leave_first_process() -> None:
    """Go on in a child process if this is the first process; else do nothing.

    Assumes that this process has one thread.
    """
    if os.getpid() != 1:
        return
    # No signal may come between the fork and the handlers: the first process would not hear of it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    worker = os.fork()
    if worker != 0:
        _stay_behind(worker, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stay_behind(worker: int, mask: set[signal.Signals] | set[int]) -> None:
    def hand_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ended, status = 0, 0
    while ended != worker:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    # As a shell says it: the first process cannot die of a signal of its own.
    os._exit(code if code >= 0 else 128 - code)
