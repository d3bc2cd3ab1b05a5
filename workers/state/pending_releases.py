"""Leases that are to be given back to the server, over all campaigns of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from queue_eval.model.moves import Release
from workers.state.served_campaign import ServedCampaign


class PendingReleases:
    """Guarantees: every public method is atomic, under the lock of `WorkerState`, which it shares."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._pending: list[tuple[ServedCampaign, list[Release]]] = []

    def add(self, served: ServedCampaign, releases: Sequence[Release]) -> None:
        with self._changed:
            self._pending.append((served, list(releases)))

    def add_failed(self, served: ServedCampaign, releases: Sequence[Release]) -> None:
        """These could not be given back; the campaign waits a little."""
        with self._changed:
            self.add(served, releases)
            served.put_off()

    def mark_released(self, served: ServedCampaign) -> None:
        """The server has taken releases of this campaign."""
        with self._changed:
            served.not_before = None

    def take_due(self) -> list[tuple[ServedCampaign, list[Release]]]:
        """What may be given back now."""
        with self._changed:
            now = time.monotonic()
            due = [(served, releases) for served, releases in self._pending if not served.is_put_off(now)]
            self._pending = [item for item in self._pending if item[0].is_put_off(now)]
            return due

    def all(self) -> list[tuple[ServedCampaign, list[Release]]]:
        with self._changed:
            return list(self._pending)

    def is_due(self) -> bool:
        with self._changed:
            now = time.monotonic()
            return any(not served.is_put_off(now) for served, _ in self._pending)

    def has_any_reachable(self) -> bool:
        """Whether there are releases of a campaign whose last call has not failed."""
        with self._changed:
            return any(served.not_before is None for served, _ in self._pending)

    def has_any_of(self, served: ServedCampaign) -> bool:
        with self._changed:
            return any(pending is served for pending, _ in self._pending)
