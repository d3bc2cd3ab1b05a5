"""What `queue-eval worker` does when it is the first process of a container (process id 1).

The kernel makes the first process the parent of every process whose own parent has ended, and only a parent
can remove a dead process. A worker must not wait for processes that it does not know: it would take the exit
status of its own children from the code that waits for them. So the worker goes on in a child process. The
first process stays behind: it removes every process that ends, and passes signals on to the worker. It ends
when the worker ends, with the worker's exit status.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

_PASSED_ON_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def leave_first_process() -> None:
    """Go on in a child process if this is the first process; else do nothing.

    Assumes that this process has one thread.
    """
    if os.getpid() != 1:
        return
    # Signals are blocked until the handlers are set: the first process would miss one that came before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON_SIGNALS)
    worker = os.fork()
    if worker != 0:
        _stay_behind(worker, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stay_behind(worker: int, mask: set[signal.Signals] | set[int]) -> None:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in _PASSED_ON_SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ended, status = 0, 0
    while ended != worker:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    # The status is the one that shells use: the first process cannot kill itself by a signal.
    os._exit(code if code >= 0 else 128 - code)
