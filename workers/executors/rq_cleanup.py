"""Removes traces of ended jobs from RQ's Redis: each in its time, and again where RQ may write one late."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Container

from queue_eval.model.attempt import Token
from queue_eval.rq_bridge.commands import Claim, RqCommands

CLOSE_S = 5.5
"""How long the end may take."""

_CLOSE_GENTLY_S = 4.0
"""At the end, RQ workers have so long to note that their jobs are over."""

_CLOSE_FORCE_AFTER_S = 0.5
"""At the end, traces that are removed by force are removed so soon."""

_MAX_BATCH = 200
"""How many traces are removed in one call."""

_CLAIM_AFTER_S = 2.0
"""A report stays among the replies for so long after the worker has it: the worker may die before it is
settled, and RQ must finish its own bookkeeping."""

_SWEEP_EVERY_S = 0.25

_PATIENCE_S = 10.0
"""An RQ worker that has not noted by then that its job is over is dead, or was paused."""

_FORCE_AGAIN_AFTER_S = (3.0, 20.0)
"""When traces that were removed by force are removed again: an RQ worker may note its end late."""

_RECENT_S = 60.0
"""Traces that were removed so shortly before RQ's Redis went away may be there again when it is back."""


class TraceCleanup:
    """The traces that one forwarder has to remove. Assumes: one thread."""

    def __init__(self, commands: RqCommands) -> None:
        self._commands = commands
        self._claims: list[tuple[float, int, float, Claim]] = []
        """A heap of: when to remove, a number, until when to be patient, what to remove."""
        self._numbers = itertools.count()
        self._recent: deque[tuple[float, Token]] = deque()
        self._sweep_at = 0.0
        self._patient_until = math.inf
        self._is_closing = False

    def claim(self, rq: Token, entries: tuple[bytes, ...] = ()) -> None:
        """Remove the traces of an attempt when RQ is done with it."""
        self._put(0.0 if self._is_closing else _CLAIM_AFTER_S, Claim(rq, entries))

    def claim_by_force(self, rq: Token, entries: tuple[bytes, ...] = ()) -> None:
        """Remove the traces of an attempt, even if RQ is not done with it."""
        for after_s in (0.0, *_FORCE_AGAIN_AFTER_S):
            self._put(after_s, Claim(rq, entries, by_force=True))

    def claim_later_by_force(self, rq: Token) -> None:
        """Remove further traces of an attempt that was claimed: RQ may have more than one."""
        for after_s in _FORCE_AGAIN_AFTER_S:
            self._put(after_s, Claim(rq, by_force=True))

    def distrust(self, now: float) -> None:
        """Remove recent traces again: RQ's Redis is back, maybe as it was before they were removed."""
        self._forget_old(now)
        for token in {token for _, token in self._recent} | {claim.token for *_, claim in self._claims}:
            self.claim_by_force(token)

    def due_at(self) -> float:
        """When to sweep next (monotonic, s)."""
        return max(self._sweep_at, self._claims[0][0]) if self._claims else math.inf

    def is_tidy(self) -> bool:
        """Whether nothing is left to be removed before the end."""
        return not self._claims or self._claims[0][0] >= time.monotonic() + CLOSE_S

    def hurry(self) -> None:
        """Remove everything soon: the end is near."""
        self._is_closing = True
        self._patient_until = time.monotonic() + _CLOSE_GENTLY_S
        soon = time.monotonic() + _CLOSE_FORCE_AFTER_S
        self._claims = [
            (soon if claim.by_force else 0.0, number, self._patient_until, claim)
            for _, number, _, claim in self._claims
        ]
        heapq.heapify(self._claims)

    def sweep(self, now: float, back: Container[Token]) -> None:
        """Remove the traces that are due, many at a time. Attempts in `back` run again under the same token,
        and keep theirs. A call may fail: then its traces stay due."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + (0.05 if self._is_closing else _SWEEP_EVERY_S)
        while self._claims and self._claims[0][0] <= now:
            due: list[tuple[float, int, float, Claim]] = []
            while self._claims and self._claims[0][0] <= now and len(due) < _MAX_BATCH:
                due.append(heapq.heappop(self._claims))
            claims = {claim: until for _, _, until, claim in due if claim.token not in back}
            try:
                left = self._commands.sweep(claims)
            except BaseException:
                for entry in due:
                    heapq.heappush(self._claims, entry)
                raise
            for (claim, patient_until), is_left in zip(claims.items(), left, strict=True):
                self._recent.append((now, claim.token))
                if is_left and now < patient_until:
                    self._put(0.1 if self._is_closing else 1.0, claim, patient_until)
                elif is_left:
                    self.claim_by_force(claim.token)
        self._forget_old(now)

    def _put(self, after_s: float, claim: Claim, patient_until: float | None = None) -> None:
        at = time.monotonic() + after_s
        patient_until = min(patient_until or at + _PATIENCE_S, self._patient_until)
        heapq.heappush(self._claims, (at, next(self._numbers), patient_until, claim))

    def _forget_old(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _RECENT_S:
            self._recent.popleft()
