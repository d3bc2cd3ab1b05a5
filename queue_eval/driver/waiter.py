"""Waiting for outcomes. One thread reads the stream on behalf of all waiters.

A waiting thread has two duties, each done by one thread at a time, whichever comes first. It reads what the
server has, and it calls the callbacks with the reports that were read. While a callback runs, nobody reads:
so what waits for callbacks stays bounded, however slow they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from queue_eval.driver.chores import Chores, Patience
from queue_eval.driver.intake import MAX_BLOCK_S
from queue_eval.driver.session import CampaignSession
from queue_eval.errors import GiveUp, SearchTerminationError, UsageError

_MAX_EMPTY_READS = 5
"""Past its deadline a wait still reads on: while reads bring outcomes, or for this many empty ones in a row.

One empty read does not prove that there is nothing, since each read may fail.
"""


class Waiter:
    """Lets any number of threads wait for outcomes of a campaign.

    Guarantees: at most one thread reads at a time. When it ends, also by an interruption, another goes on.
    Assumes: conditions are quick, since they are asked under the ledger's lock. No callback waits for another
    thread that waits here.
    """

    def __init__(self, session: CampaignSession, chores: Chores, patience: Patience) -> None:
        self._session = session
        self._chores = chores
        self._patience = patience
        self._reader: int | None = None
        self.closed = False

    def until(
        self, enough: Callable[[], bool], deadline: float | None, *, look_first: bool
    ) -> SearchTerminationError | None:
        """Wait until `enough` is true, or until `deadline` (monotonic, s).

        `look_first`: take in what the server has before `enough` is asked.

        Calls the callbacks with the reports that arrive meanwhile. Returns the error by which one of them
        ends the search, as soon as one does.
        """
        lock, reports = self._session.lock, self._session.ledger.reports
        must_look = look_first
        empty_reads = 0
        while True:
            if reports is not None:
                ending = reports.deliver(deadline, self.check_open)
                if ending is not None:
                    return ending
            with lock:
                self.check_open()
                if not must_look and enough():
                    return None
                left_s = MAX_BLOCK_S if deadline is None else deadline - time.monotonic()
                if left_s <= 0 and (not must_look or empty_reads > _MAX_EMPTY_READS):
                    return None
                is_delivering = reports is not None and reports.is_delivered_elsewhere
                # If an interruption has left the mark of this very thread behind, it simply reads.
                if is_delivering or self._reader not in (None, threading.get_ident()):
                    # That thread soon has what there is. Nothing is read twice for two threads.
                    lock.wait(min(max(left_s, 0.001), MAX_BLOCK_S))
                    must_look = False
                    continue
                block_s = 0.0 if enough() else max(0.0, min(left_s, MAX_BLOCK_S))
                self._reader = threading.get_ident()
                cursor = self._session.ledger.cursor
            try:
                must_look = self._read(block_s, deadline)
                empty_reads = empty_reads + 1 if must_look and cursor == self._session.ledger.cursor else 0
            finally:
                with lock:
                    self._reader = None
                    lock.notify_all()

    def _read(self, block_s: float, deadline: float | None) -> bool:
        began_at = time.monotonic()
        with self._patience.until(deadline):
            try:
                self._chores.run()
                return self._session.read(block_s)
            except GiveUp:
                return False
            finally:
                self._chores.count_wait(time.monotonic() - began_at)

    def check_open(self) -> None:
        """Raises UsageError in a thread that waits when the evaluator is closed."""
        if self.closed:
            raise UsageError("the evaluator was closed while it was waiting; gather before closing it")

    def close(self, timeout_s: float) -> None:
        """End all waiting. When this returns, no thread reads, or `timeout_s` have passed."""
        with self._session.lock:
            self.closed = True
            self._patience.closed = True
            self._session.lock.notify_all()
            self._session.lock.wait_for(lambda: self._reader in (None, threading.get_ident()), timeout_s)
