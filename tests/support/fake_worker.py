"""A worker that runs its function in this process, for tests of drivers: it leases and settles, no more."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.codec import encode_result
from queue_eval.model.moves import Lease, Settlement
from queue_eval.model.states import Outcome
from queue_eval.transport.access import find_access
from queue_eval.transport.link import Link


def times_ten(config: dict[str, Any]) -> Any:
    return config["x"] * 10


class FakeWorker:
    """Serves a campaign in a thread. What the function raises fails the attempt."""

    def __init__(
        self, home: Path, campaign: str, function: Callable[[dict[str, Any]], Any] = times_ten, *,
        name: str = "", room: int = 500,
    ) -> None:  # fmt: skip
        self.name = name or f"box-{secrets.token_hex(3)}"
        self.link = Link(find_access(None, home), name="fake-worker")
        self.queue = CampaignCommands.attach(self.link, campaign)[0]
        self.runs: list[int] = []
        self._function = function
        self._room = room
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        ended: list[Settlement] = []
        while not self._stop.is_set():
            settled = self.queue.settle(
                self.name, ended, lease_ms=60_000, request=secrets.token_hex(4), room=self._room, prefetch=0,
                now=time.monotonic(),
            )  # fmt: skip
            ended = [self._run(lease) for lease in settled.leases]
            if not settled.leases:
                self._stop.wait(0.003)

    def _run(self, lease: Lease) -> Settlement:
        self.runs.append(lease.id)
        try:
            outcome, body = Outcome.OK, encode_result(self._function(json.loads(lease.config)))
        except Exception as error:
            outcome, body = Outcome.ERROR, f"Traceback\n{type(error).__name__}: {error}"
        return Settlement(lease.id, lease.attempt, outcome, 1.5, time.monotonic(), "abc", body.encode())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self.link.close()
