"""Observes the campaign from outside, over a connection of its own, past all proxies.

It takes samples all the time, and remembers each entry of the result stream as it was when first seen.
Another thread, which has nothing to do with the server, detects when the machine stands still.
"""

from __future__ import annotations

import threading
import time

from queue_eval.campaign.view import CampaignView
from queue_eval.chaos.driver import CAMPAIGN
from queue_eval.chaos.evidence import Entry, Sample
from queue_eval.chaos.reading import entries_after, failures_after, used_memory
from queue_eval.chaos.side_thread import SideThread
from queue_eval.model.states import State
from queue_eval.transport.access import Access

_SAMPLE_EVERY_S = 0.1
_MEMORY_EVERY_SAMPLES = 10
_STALL_S = 1.0
"""A thread that only sleeps, and wakes so late, was on a machine that stood still."""


class StallDetector:
    """Notes when this machine stood still, in a thread of its own that only sleeps. `stalls` only grows."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chaos-stalls", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        last = time.time()
        while not self._stopped.wait(_SAMPLE_EVERY_S):
            now = time.time()
            if now - last > _STALL_S:
                self.stalls.append((last, now))
            last = now


class Observer(SideThread):
    """Takes samples in a thread of its own, from `start` to `stop` or `finish`.

    `samples` and `seen` only grow.
    """

    def __init__(self, access: Access) -> None:
        super().__init__(access, "observer", _SAMPLE_EVERY_S)
        self.samples: list[Sample] = []
        self.seen: dict[str, Entry] = {}
        self.failed_at: dict[str, tuple[float, float]] = {}
        """The times of the two samples between which each failure was recorded, by its entry."""
        self._sampled_at = 0.0
        self._view: CampaignView | None = None
        self._cursor = self._failures_cursor = "0-0"
        self._memory = 0

    def finish(self) -> None:
        """Stop after a last sample of the campaign, which has ended."""
        self._takes_last_turn = True
        self.stop()

    @property
    def finished(self) -> int:
        return self.samples[-1].finished if self.samples else 0

    def _turn(self) -> None:
        if self._view is None:
            self._view = CampaignView.attach(self._link, CAMPAIGN)[0]
        snapshot = self._view.snapshot()
        if len(self.samples) % _MEMORY_EVERY_SAMPLES == 0:
            self._memory = used_memory(self._link)
        self.samples.append(
            Sample(
                at=time.time(),
                last_id=snapshot.last_id,
                placed=sum(snapshot.counts.values()),
                pending=snapshot.counts[State.PENDING],
                finished=sum(count for state, count in snapshot.counts.items() if state.is_final),
                running={worker.worker: worker.running for worker in snapshot.workers},
                memory=self._memory,
            )
        )
        for entry in entries_after(self._view, self._cursor):
            self._cursor = entry.entry
            self.seen[entry.entry] = entry
        began = time.time()
        for failure, _ in failures_after(self._link, self._view, self._failures_cursor):
            self._failures_cursor = failure
            self.failed_at.setdefault(failure, (self._sampled_at, time.time()))
        self._sampled_at = began
