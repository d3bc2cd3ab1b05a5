"""Which attempt runs in this process, or in this thread of it.

Each child imports this. `current_job` builds on it, and is imported only by jobs that call it.

A thread belongs to the attempt in which it was started, also when that is over: what it reports late must not
be shown under the next attempt. In a process with one slot, the threads that live when an attempt begins are
those of the attempts before. In one with several, `Thread.start` hands the attempt on.
"""

from __future__ import annotations

import os
import sys
from _thread import _count, allocate_lock, get_ident
from time import monotonic

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Send(Protocol):
        """Sends a frame whole, or not at all. Returns False when there is no room for it now; with `wait` it
        waits for room. Raises OSError when nobody receives."""

        def __call__(self, header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool: ...

    Unmade = tuple[int, int, bytes, int, dict[str, Any] | None, Send, float, int]
    """The arguments of an `Attempt`."""


class AttemptGivenBack(SystemExit):
    """Raised by `give_back` to end the run function.

    It is a SystemExit, since asyncio and threads end at once for it, and without a traceback.
    """


class Attempt:
    """One attempt, as this process runs it."""

    look: Callable[[], str | None] | None = None
    """Looks up the notice to this attempt: "stop", "drain" or None. None: by its file (`notices`)."""
    is_over = False
    given_back: str | None = None
    """The reason given to `give_back`; None: it was not called by the thread that runs the function."""
    was_shown_stop = False
    """Whether this process has shown "stop" to the run function."""
    finisher: Callable[[], None] | None = None
    """Sends what waits; called once, at the end."""
    prepare: Callable[[], None] | None = None
    """To be called before another process needs the mailbox; None: it is there."""

    def __init__(
        self, job: int, number: int, config: bytes, slots: int, inside: dict[str, Any] | None, send: Send,
        began: float | None = None, thread: int | None = None,
    ) -> None:  # fmt: skip
        """`began`: when the run function began (monotonic, s); None: now. `thread`: see there; None: this."""
        self.id = job
        self.number = number
        self.config = config
        self.slots = slots
        self.inside = inside
        """`Setup.inside`; None: nothing is known, and `current_job` does nothing."""
        self.send = send
        """Sends frames from this process. A fork uses the mailbox instead."""
        self.began = monotonic() if began is None else began
        self.pid = os.getpid()
        self.thread = get_ident() if thread is None else thread
        """The thread that runs the function."""
        self.parts: dict[str, Any] = {}
        """What `current_job` has made for this attempt."""

    def outcome(self, ended: str) -> str:
        """The outcome, when the run function has `ended` by "ok" or "error"."""
        if self.given_back is not None:
            return "given back"
        return "stopped" if ended == "ok" and self.was_shown_stop else ended

    def finish(self) -> None:
        """Send what waits. From then on nothing is sent for this attempt."""
        self.is_over = True
        if self.finisher is not None:
            self.finisher()
        # It is kept for its threads. Through `send` it would keep the run function's module at the end of
        # the process, with files that are flushed when the module goes.
        self.send = refuse


def refuse(header: tuple[Any, ...], body: bytes = b"", *, wait: bool = False) -> bool:  # noqa: ARG001
    """The `Send` of an attempt that is over."""
    return False


class _State:
    attempt: Attempt | Unmade | None = None
    """That of a process with one slot."""
    by_thread = False
    of_slot: dict[int, Attempt | Unmade] = {}  # noqa: RUF012 - there is one state
    """Those of a process with several slots, by the thread of each slot."""
    left: tuple[tuple[Any, Attempt | None], ...] = ()
    """Threads from before this attempt, and the attempt that has started each. None: it is older than all
    attempts, as those of a pool that was made at import time, and works for any."""


_making = allocate_lock()


def begin(attempt: Attempt | Unmade) -> None:
    """`attempt` runs in this thread from now on.

    Its arguments are enough: then it is made when it is first asked for. Few ask, and making it takes a fifth
    of the time that a child has for an attempt that does nothing.
    """
    if _State.by_thread:
        _State.of_slot[get_ident()] = attempt
        return
    if _count() or _State.left:
        _State.left = _left_threads()
    _State.attempt = attempt


def end() -> Attempt | None:
    """The attempt that `begin` was told of in this thread; None when nobody has asked for it, or can."""
    if _State.by_thread:
        attempt: Attempt | Unmade | None = _State.of_slot.get(get_ident())
    else:
        # Threads that it leaves may ask later: then they must find out that it is over.
        attempt = _made_here() if _count() else _State.attempt
    return attempt if isinstance(attempt, Attempt) else None


def token_of_slot() -> tuple[int, int] | None:
    """(id, attempt) of what runs in the slot that is this thread; None in others, and with one slot."""
    attempt = _State.of_slot.get(get_ident())
    return (attempt.id, attempt.number) if isinstance(attempt, Attempt) else attempt and attempt[:2]


def current() -> Attempt | None:
    """The attempt to which this thread belongs; None outside a job."""
    if _State.by_thread:
        thread = get_ident()
        if thread not in _State.of_slot:
            return _of_thread(_current_thread())
        return _made(lambda: _State.of_slot[thread], lambda made: _State.of_slot.update({thread: made}))
    attempt = _made_here()
    if _State.left and attempt is not None and get_ident() != attempt.thread:
        thread = _current_thread()
        for left, earlier in _State.left:
            if left is thread:
                return earlier or attempt
    return attempt


def use_threads() -> None:
    """Several attempts run in this process at a time, each in a thread of its own."""
    import threading

    _State.by_thread = True
    start = threading.Thread.start

    def start_in_attempt(self: threading.Thread) -> None:
        _set_of_thread(self, current())
        start(self)

    threading.Thread.start = start_in_attempt  # type: ignore[method-assign]


def _left_threads() -> tuple[tuple[Any, Attempt | None], ...]:
    threading = sys.modules.get("threading")
    if threading is None:
        return ()
    known = dict(_State.left)
    me = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not me]
    before = _made_here() if others else None
    return tuple((thread, known.get(thread, before)) for thread in others)


def _made(
    get: Callable[[], Attempt | Unmade | None], keep: Callable[[Attempt], object]
) -> Attempt | None:
    """What `get` gives. An attempt that is not made yet is made, and kept by `keep`."""
    attempt = get()
    if attempt is None or isinstance(attempt, Attempt):
        return attempt
    with _making:
        attempt = get()  # another thread may have been faster
        if isinstance(attempt, tuple):
            attempt = Attempt(*attempt)
            keep(attempt)
        return attempt


def _made_here() -> Attempt | None:
    def keep(attempt: Attempt) -> None:
        _State.attempt = attempt

    return _made(lambda: _State.attempt, keep)


def _current_thread() -> Any:
    import threading

    return threading.current_thread()


_THREADS_ATTEMPT = "_queue_eval_attempt"
"""The attribute of a `Thread` that has its attempt."""


def _of_thread(thread: Any) -> Attempt | None:
    attempt: Attempt | None = getattr(thread, _THREADS_ATTEMPT, None)
    return attempt


def _set_of_thread(thread: Any, attempt: Attempt | None) -> None:
    setattr(thread, _THREADS_ATTEMPT, attempt)
