"""Waiting for outcomes: one thread reads for all, the others wait for what it brings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from queue_eval.driver.chores import Chores, Patience
from queue_eval.driver.session import STEP_S, Campaign
from queue_eval.errors import GiveUp, UsageError

_MOST_IN_VAIN = 5
"""Behind a deadline it is read on while that brings something, or this often: each reading may fail."""


class Waiter:
    """Lets any number of threads wait for outcomes of a campaign.

    Guarantees: at most one thread reads at a time; when it ends, also by an interruption, another goes on.
    Assumes: conditions are quick; they are asked under the campaign's lock.
    """

    def __init__(self, campaign: Campaign, chores: Chores, patience: Patience) -> None:
        self._campaign = campaign
        self._chores = chores
        self._patience = patience
        self._reader: int | None = None
        self.closed = False

    def until(self, enough: Callable[[], bool], deadline: float | None, *, look_first: bool) -> None:
        """Return when `enough`, or at `deadline` (monotonic, s).

        `look_first`: take in what the server has before asking whether it is enough.
        """
        lock = self._campaign.lock
        must_look = look_first
        in_vain = 0
        while True:
            with lock:
                self.check_open()
                if not must_look and enough():
                    return
                left_s = STEP_S if deadline is None else deadline - time.monotonic()
                if left_s <= 0 and (not must_look or in_vain > _MOST_IN_VAIN):
                    return
                # Itself, when an interruption left its mark behind: then it simply reads.
                if self._reader not in (None, threading.get_ident()):
                    # Whoever reads has what there is soon; it is not read twice for two threads.
                    lock.wait(min(max(left_s, 0.001), STEP_S))
                    must_look = False
                    continue
                block_s = 0.0 if enough() else max(0.0, min(left_s, STEP_S))
                self._reader = threading.get_ident()
                cursor = self._campaign.ledger.cursor
            try:
                must_look = self._read(block_s, deadline)
                in_vain = in_vain + 1 if must_look and cursor == self._campaign.ledger.cursor else 0
            finally:
                with lock:
                    self._reader = None
                    lock.notify_all()

    def _read(self, block_s: float, deadline: float | None) -> bool:
        began_at = time.monotonic()
        with self._patience.until(deadline):
            try:
                self._chores.run()
                return self._campaign.read(block_s)
            except GiveUp:
                return False
            finally:
                self._chores.count_wait(time.monotonic() - began_at)

    def check_open(self) -> None:
        """Raises UsageError for one that waits when the evaluator is closed."""
        if self.closed:
            raise UsageError("the evaluator was closed while it was waiting; gather before closing it")

    def close(self, timeout_s: float) -> None:
        """End all waiting; when this returns, nobody reads (or `timeout_s` have passed)."""
        with self._campaign.lock:
            self.closed = True
            self._patience.closed = True
            self._campaign.lock.notify_all()
            self._campaign.lock.wait_for(lambda: self._reader in (None, threading.get_ident()), timeout_s)
