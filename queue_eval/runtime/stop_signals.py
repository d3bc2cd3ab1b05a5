"""Handlers by which the processes that run user code ignore stop signals.

A batch system, a service manager or a session scope sends its SIGTERM to every process: to the worker, which
must drain, and to its children, which must finish what they run. So a child ignores these signals for as
long as its parent lives.

It ignores them by a handler in Python, which ends at `exec`. Every program that user code starts would
inherit `SIG_IGN`, but `timeout`, `mpirun`, shells and ``Popen.terminate`` need the default there. Forks of
user code, such as the processes of a ``multiprocessing.Pool``, get the defaults back at once.

The processes that run user code import this, so it imports next to nothing.
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
    """Give the signals that a host may handle the handlers that Python starts with. Called in a fork."""
    signal.set_wakeup_fd(-1)
    for number in (*STOP_SIGNALS, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, _default(number))


class StopSignalHandlers:
    """Makes this process ignore stop signals, except where user code has handlers of its own.

    Assumes: it is made in the main thread. It unblocks stop signals that were blocked until now (see
    `blocked`).
    """

    def __init__(self) -> None:
        owner = os.getpid()

        def ignore(number: int, _frame: Any) -> None:
            if os.getpid() != owner:  # in a fork that Python does not know of: act as the default does
                signal.signal(number, _default(number))
                os.kill(os.getpid(), number)

        # The mask of each thread that is about to fork. Python drops signals that reach a fork before it has
        # begun. So signals wait until the fork has its defaults: one that is terminated at once must end.
        masks: dict[int, set[Any]] = {}

        def block() -> None:
            masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

        def unblock() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(get_ident()))

        def reset() -> None:
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is ignore:
                    signal.signal(number, _default(number))
            unblock()

        self._ignore = ignore
        os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=reset)
        self.restore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def restore(self) -> None:
        """Install the handlers again where user code has put a default back."""
        for number in STOP_SIGNALS:
            current = signal.getsignal(number)
            if current is self._ignore:
                continue
            if current in (signal.SIG_DFL, signal.SIG_IGN, None) or current is signal.default_int_handler:
                signal.signal(number, self._ignore)
                # System calls of C code go on; only sleep, poll and select return early, whatever is set.
                signal.siginterrupt(number, False)


class blocked:  # noqa: N801 - a context manager, which reads as a verb
    """Blocks stop signals within. A process that is started within begins with them blocked: no signal can
    end it before it has its handlers."""

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _default(number: int) -> Callable[[int, Any], Any] | int:
    """The handler that Python itself starts with."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
