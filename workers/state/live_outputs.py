"""What running attempts of one campaign have printed, until the server has the newest part of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from queue_eval.model.attempt import Token
from queue_eval.model.live_output import LIVE_BYTES
from queue_eval.model.moves import Printed

TELL_EVERY_S = 1.0
"""The server is told at most so often, of all attempts at once."""


class LiveOutputs:
    """Guarded by the lock of `WorkerState`. Holds at most LIVE_BYTES of each running attempt."""

    def __init__(self) -> None:
        self._waiting: dict[Token, Printed] = {}
        self._not_before = 0.0

    def add(self, printed: Printed) -> None:
        token = (printed.id, printed.attempt)
        before = self._waiting.get(token)
        self._waiting[token] = printed if before is None else _joined(before, printed)

    def due_at(self) -> float | None:
        """When the server is to be told (monotonic, s); None: there is nothing to tell."""
        return self._not_before if self._waiting else None

    def take(self, proofs: Mapping[Token, tuple[str, str]]) -> list[Printed]:
        """What is to be told now. `proofs`: the request, and the digest, of the lease of each attempt that
        runs: what others have printed goes with their outcomes."""
        waiting, self._waiting = self._waiting, {}
        self._not_before = time.monotonic() + TELL_EVERY_S
        return [
            printed._replace(request=proofs[token][0])
            for token, printed in waiting.items() if token in proofs
        ]  # fmt: skip

    def put_back(self, told: Iterable[Printed], proofs: Mapping[Token, tuple[str, str]]) -> None:
        """The call that carried these failed: they wait again, but for what has ended meanwhile."""
        for printed in told:
            token = (printed.id, printed.attempt)
            if token in proofs:
                newer = self._waiting.get(token)
                self._waiting[token] = printed if newer is None else _joined(printed, newer)

    def put_off(self, pause_s: float) -> None:
        self._not_before = time.monotonic() + pause_s


def _joined(before: Printed, printed: Printed) -> Printed:
    """The newest part of both, unless something is missing between them."""
    missing = printed.total - len(printed.text) - before.total
    if missing != 0:
        return printed
    return printed._replace(text=(before.text + printed.text)[-LIVE_BYTES:])
