"""What running attempts of one campaign have told of themselves, until the server has it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from queue_eval.model.attempt import Token
from queue_eval.model.moves import PointBatch
from queue_eval.runtime.pipe import Kind
from workers.executors.signs import Sign

SEND_AFTER_S = 0.25
"""Points wait so long for others, so that many jobs share a call."""

MAX_WAITING = 10_000
"""How many points of one attempt may wait for the server; as many as it keeps of a job."""

MAX_CALL_BYTES = 4 * 2**20


@dataclass
class _Told:
    """Of one attempt."""

    request: str
    began_at: float
    """On the monotonic clock (s)."""
    number: int = 0
    """Of its last point."""
    lines: list[bytes] = field(default_factory=list)
    dropped: int = 0
    has_looked: bool = False
    was_shown_stop: bool = False
    """Seen by a process that is not the one which ends the attempt."""
    saved: str = ""
    has_folder: bool = False
    knows_looked: bool = False
    """Whether the server knows that it has looked."""

    @property
    def waits(self) -> bool:
        return bool(self.lines or self.dropped or self.saved) or self.has_looked > self.knows_looked

    def add_lines(self, dropped: int, lines: Sequence[bytes]) -> None:
        # Gaps between the numbers show what was dropped.
        self.number += dropped
        self.dropped += dropped
        for line in lines:
            self.number += 1
            self.lines.append(b"%d %b" % (self.number, line))
        if len(self.lines) > MAX_WAITING:
            # As on the server: every second one goes, the first and the last stay.
            kept = self.lines[::2]
            if len(self.lines) % 2 == 0:
                kept.append(self.lines[-1])
            self.dropped += len(self.lines) - len(kept)
            self.lines = kept


class Signs:
    """Guarded by the lock of `WorkerState`."""

    def __init__(self) -> None:
        self._told: dict[Token, _Told] = {}
        self._waits_since: float | None = None
        self._not_before = 0.0
        self.with_checkpoints: set[int] = set()
        """Jobs here that have checkpoints, as far as is known."""
        self.over: set[int] = set()
        """Jobs whose attempt here is being stopped, since they are finished."""

    @property
    def are_there(self) -> bool:
        """Whether anything is known of any attempt here."""
        return bool(self._told or self.over)

    def add(self, sign: Sign, request: str) -> None:
        """`request`: of the lease under which the attempt runs now."""
        told = self._told.get(sign.token)
        if told is None:
            told = self._told[sign.token] = _Told(request, sign.began_at or time.monotonic())
        told.request = request
        if sign.kind == Kind.POINTS:
            told.add_lines(sign.dropped, sign.lines)
        elif sign.kind == Kind.LOOKED:
            told.has_looked = True
        elif sign.kind == Kind.SHOWN:
            told.was_shown_stop = True
        elif sign.kind == Kind.SAVED:
            told.saved = sign.text
            self.with_checkpoints.add(sign.token[0])
        elif sign.kind == Kind.FOLDER:
            told.has_folder = True
        if told.waits and self._waits_since is None:
            self._waits_since = time.monotonic()

    def due_at(self) -> float | None:
        """When the server is to be told (monotonic, s); None: there is nothing to tell."""
        if self._waits_since is None:
            return None
        return max(self._waits_since + SEND_AFTER_S, self._not_before)

    def put_off(self, pause_s: float) -> None:
        self._not_before = time.monotonic() + pause_s

    def take(self, server_ahead_ms: float, proofs: Mapping[Token, tuple[str, str]]) -> list[PointBatch]:
        """What one call may carry.

        `server_ahead_ms`: how far the server's clock is ahead of ours; `proofs`: the request, and the digest,
        of the lease of each attempt that runs.
        """
        batches: list[PointBatch] = []
        size = 0
        for (job, attempt), told in self._told.items():
            if not told.waits:
                continue
            if size > MAX_CALL_BYTES:
                return batches
            if (job, attempt) in proofs:  # the lease may be another one since the attempt told this
                told.request = proofs[job, attempt][0]
            lines = b"".join(told.lines)
            size += len(lines)
            base_ms = round(told.began_at * 1000 + server_ahead_ms)
            batches.append(
                PointBatch(
                    job, attempt, told.request, base_ms, told.dropped, told.has_looked, told.saved, lines
                )
            )
            told.lines, told.dropped, told.saved, told.knows_looked = [], 0, "", told.has_looked
        self._waits_since = None
        return batches

    def put_back(self, batches: Iterable[PointBatch]) -> None:
        """The call that carried these failed."""
        for batch in batches:
            told = self._told.get((batch.id, batch.attempt))
            if told is None:
                continue
            told.lines = [*batch.lines.splitlines(keepends=True), *told.lines]
            told.dropped += batch.dropped
            told.saved = told.saved or batch.checkpoint
            told.knows_looked = False
            self._waits_since = self._waits_since or time.monotonic()

    def mark_taken(
        self, batches: Sequence[PointBatch], verdicts: Sequence[bool], running: Container[Token]
    ) -> None:
        """The server has answered. Forget attempts that have ended, and those whose lease is not ours."""
        for batch, was_taken in zip(batches, verdicts, strict=True):
            token = batch.id, batch.attempt
            told = self._told.get(token)
            if told is not None and token not in running and not told.waits:
                del self._told[token]
            elif told is not None and not was_taken:
                told.lines, told.dropped, told.saved, told.knows_looked = [], 0, "", told.has_looked

    def ended(self, token: Token) -> Ends:
        """The attempt has ended: what is to be known of it then. What waits is still sent."""
        told = self._told.get(token)
        is_over = token[0] in self.over
        self.over.discard(token[0])
        if is_over:
            self.with_checkpoints.discard(token[0])
        if told is None:
            return Ends(is_over=is_over)
        if not told.waits:
            del self._told[token]
        return Ends(told.was_shown_stop, told.has_folder, is_over)


class Ends(NamedTuple):
    """What is to be known of an attempt that ends."""

    was_shown_stop: bool = False
    has_folder: bool = False
    is_over: bool = False
    """Its job is finished, and no attempt of it will follow."""
