"""Jobs that are awaited one by one (`execute`), each in any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from queue_eval.driver.ledger import CompletionHook
from queue_eval.driver.waiter import Waiter
from queue_eval.errors import UsageError
from queue_eval.model.job import Job


class SingleJobs:
    """Any number of awaited jobs, served by one thread that submits and one that waits.

    The event loop's own threads are not used: there are few of them, and a job may take days. Both threads
    are started with the first awaited job and end with the last.
    """

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self._lock = threading.Lock()
        self._awaited: dict[Job, _Future] = {}
        self._unfinished: set[_Future] = set()
        """The awaited jobs that are not finished. `_wait` asks after every outcome whether there are any.

        A set, because its single steps need no lock: a job is finished under the ledger's lock.
        """
        self._submitter: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    async def run(
        self, job: Job, submit: Callable[[CompletionHook], None], hand_over: Callable[[Job], None]
    ) -> None:
        """Submit (in a thread) with a hook that is called when the job is finished, and await that.

        When an error or a cancellation ends the wait, a gather is to return the job. If the job has finished
        already, `hand_over` is called with it; else its hook will not claim it.
        """
        loop = asyncio.get_running_loop()
        future = _Future(loop, self._unfinished.discard)
        with self._lock:
            if self._submitter is None:
                self._submitter = ThreadPoolExecutor(1, thread_name_prefix="queue_eval-submit")
            submitter = self._submitter
        try:
            await loop.run_in_executor(submitter, submit, future.finish)
            with self._lock:
                self._awaited[job] = future
                self._unfinished.add(future)
                if future.is_finished:  # It was finished before it was added, and found nothing to remove.
                    self._unfinished.discard(future)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._wait, name="queue_eval-await", daemon=True)
                    self._thread.start()
            await future.future
        except BaseException:  # Also raised when a loop that has stopped lets go of the coroutine.
            if future.abandon():
                hand_over(job)
            raise
        finally:
            self._unfinished.discard(future)
            with self._lock:
                self._awaited.pop(job, None)

    def _wait(self) -> None:
        try:
            while True:
                ending = self._waiter.until(self._nothing_unfinished, None, look_first=False)
                if ending is not None:
                    raise ending
                with self._lock:
                    # Not `_awaited`: finished jobs stay in it until their coroutines go on.
                    if self._nothing_unfinished():
                        self._thread = None
                        return
        except BaseException as error:
            with self._lock:
                self._thread = None
                awaited = list(self._awaited.values())
            for future in awaited:
                future.fail(error)

    def _nothing_unfinished(self) -> bool:
        return not self._unfinished

    def close(self) -> None:
        with self._lock:
            awaited, submitter = list(self._awaited.values()), self._submitter
            self._submitter = None
        for future in awaited:
            future.fail(UsageError("the evaluator was closed while a job was awaited"))
        if submitter is not None:
            submitter.shutdown(wait=False)


class _Future:
    """A future of an event loop that other threads may finish.

    Guarantees: `finish` and `abandon` may come at the same instant; the second of them knows of the first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_finished: Callable[[_Future], None]) -> None:
        self._loop = loop
        self._on_finished = on_finished
        self._lock = threading.RLock()  # A coroutine may be garbage collected, and so abandon, anywhere.
        self.future: asyncio.Future[None] = loop.create_future()
        self.is_finished = False
        self._is_claimed = False
        self._is_abandoned = False

    def finish(self, _: Job) -> bool:
        """The `CompletionHook` of the job. Returns whether the coroutine that awaits it will get it."""
        with self._lock:
            self._note_finished()
            self._is_claimed = not self._is_abandoned and self._finish_with(None)
            return self._is_claimed

    def fail(self, error: BaseException) -> None:
        self._note_finished()
        self._finish_with(error)

    def abandon(self) -> bool:
        """The coroutine has left. Returns whether the job was claimed for it before."""
        with self._lock:
            self._is_abandoned = True
            return self._is_claimed

    def _note_finished(self) -> None:
        # In this order: `run` first adds the future to the unfinished ones, then looks at `is_finished`.
        self.is_finished = True
        self._on_finished(self)

    def _finish_with(self, error: BaseException | None) -> bool:
        """Finish the future in its loop. Returns whether the loop still runs."""

        def step() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(step)
        except RuntimeError:  # The loop is closed: nobody awaits any more.
            return False
        return True
