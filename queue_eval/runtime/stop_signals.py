"""Signals that stop all processes of a job at once, and how those that run user code outlive them.

A batch system, a service manager or a session scope sends its SIGTERM to every process: the worker's parent,
which is to drain, and its children, which are to finish what they run. So a child takes no notice of these
signals for as long as its parent lives.

It does so by a handler in Python. `SIG_IGN` would be inherited by every program that user code starts, and
`timeout`, `mpirun`, shells and ``Popen.terminate`` need the default there; a handler ends at `exec`. What
user code forks, such as the processes of a ``multiprocessing.Pool``, has the defaults back at once.

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import os
from _thread import get_ident

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    import _signal as signal  # the other imports `enum`

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def reset_signals() -> None:
    """In a fork: signals that its host may handle in its own way do what they do when Python begins."""
    signal.set_wakeup_fd(-1)
    for number in (*STOP_SIGNALS, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, _default(number))


class Survival:
    """This process takes no notice of stop signals, but where user code has handlers of its own.

    Made in the main thread. Signals that were blocked until now (see `blocked`) are let in.
    """

    def __init__(self) -> None:
        owner = os.getpid()

        def pass_over(number: int, _frame: Any) -> None:
            if os.getpid() != owner:  # forked by other means than Python's
                signal.signal(number, _default(number))
                os.kill(os.getpid(), number)

        # Of each thread that is about to fork. Python drops what a fork is sent before it has begun: so that
        # one that is ended at once does end, signals wait until it has its defaults.
        masks: dict[int, set[Any]] = {}

        def hold() -> None:
            masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

        def let_in() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(get_ident()))

        def stand_down() -> None:
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is pass_over:
                    signal.signal(number, _default(number))
            let_in()

        self._pass_over = pass_over
        os.register_at_fork(before=hold, after_in_parent=let_in, after_in_child=stand_down)
        self.restore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def restore(self) -> None:
        """Take no notice again where a default has been put back meanwhile."""
        for number in STOP_SIGNALS:
            current = signal.getsignal(number)
            if current is self._pass_over:
                continue
            if current in (signal.SIG_DFL, signal.SIG_IGN, None) or current is signal.default_int_handler:
                signal.signal(number, self._pass_over)
                # Calls in C go on, but for sleep, poll and select: these return early, whatever is set here.
                signal.siginterrupt(number, False)


class blocked:  # noqa: N801 - a context manager, which reads as a verb
    """Stop signals wait meanwhile. What is started within begins so: it has no moment in which to die of one
    before it takes no notice of them."""

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _default(number: int) -> Callable[[int, Any], Any] | int:
    """What Python itself begins with."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
