"""A worker that a test moves by hand, step by step: it leases, reports, saves and settles when it is told."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.codec import encode, encode_result
from queue_eval.model.moves import Lease, PointBatch, Printed, Release, Settled, Settlement
from queue_eval.model.states import Outcome
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link

_LEASE_MS = 600_000


class HandWorker:
    """Serves a campaign as far as a test says."""

    def __init__(self, home: Path, campaign: str) -> None:
        self.name = f"hand-{secrets.token_hex(3)}"
        self.link = Link(find_access(None, home), name="hand-worker")
        self.queue = CampaignCommands.attach(self.link, campaign)[0]
        self._numbers: Counter[tuple[int, int]] = Counter()
        self._requests = itertools.count(1)

    def lease(self, room: int = 100, place: str = "", prefetch: int = 0) -> list[Lease]:
        """Lease jobs, as many as there are and `room` allows, and `prefetch` more."""
        return self._settle([], room, place, prefetch).leases

    def report(
        self, lease: Lease, *points: tuple[int, dict[str, float]], looks: bool = False, checkpoint: str = "",
        dropped: int = 0, base_ms: int = 1_800_000_000_000,
    ) -> bool:  # fmt: skip
        """Report (step, values) of a leased job. Returns whether that was taken."""
        token = (lease.id, lease.attempt)
        lines = []
        for step, values in points:
            self._numbers[token] += 1
            number = self._numbers[token]
            lines.append(f"{number} {number * 1000} {step} {encode(values)}\n")
        text = "".join(lines).encode()
        batch = PointBatch(
            lease.id, lease.attempt, lease.request, base_ms, dropped, looks, checkpoint, text
        )
        return self.queue.report(self.name, [batch])[0]

    def tell(self, lease: Lease, text: bytes) -> None:
        """What a leased job has printed so far, as a worker tells it while the job runs."""
        self.queue.tell(self.name, [Printed(lease.id, lease.attempt, lease.request, len(text), text)])

    def finish(self, lease: Lease, result: Any = 1.0, outcome: Outcome = Outcome.OK) -> None:
        """Settle a leased job. `result`: the error, for an outcome that is a failure."""
        is_good = outcome in (Outcome.OK, Outcome.STOPPED)
        body = encode_result(result) if is_good else str(result)
        ended = Settlement(
            lease.id, lease.attempt, outcome, 1.0, time.monotonic(), "abc", body.encode(), b"", lease.request
        )
        self._settle([ended], 0)

    def give_back(self, lease: Lease, reason: str = "drain") -> None:
        self.queue.release(self.name, [Release(lease.id, lease.attempt, reason)])

    def is_stopped(self, lease: Lease) -> bool:
        """Whether the job is asked to stop early, as the worker's next extension of its lease shows."""
        token = (lease.id, lease.attempt)
        return lease.id in self.queue.extend(self.name, _LEASE_MS, [token]).stops

    def close(self) -> None:
        self.link.close()

    def _settle(
        self, ended: list[Settlement], room: int, place: str = "", prefetch: int = 0
    ) -> Settled:
        request = f"{secrets.token_hex(4)}-{next(self._requests)}"
        return self.queue.settle(
            self.name, ended, lease_ms=_LEASE_MS, request=request, room=room, prefetch=prefetch,
            slots=max(room, 1), now=time.monotonic(), place=place,
        )  # fmt: skip
