"""The jobs of one campaign that a worker holds: their leases, what runs, and what has ended unsettled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from queue_eval.model.attempt import Token
from queue_eval.model.moves import Lease, Release, Settlement
from queue_eval.model.states import Outcome
from workers.signals import Signals

MAX_BATCH = 512
"""How many settlements go into one call."""

MAX_BATCH_BYTES = 8 * 2**20
"""Results and output of one call: no further settlement is added beyond this."""

RECENT_SETTLEMENTS = 1000
"""How many acknowledged settlements of a campaign are remembered."""

REMEMBER_IF_LONGER_MS = 50.0
"""Only results that took at least so long are remembered: others are as quickly made again."""

REMEMBER_UP_TO_BYTES = 16_384

MAX_REASON_LENGTH = 400

DOUBTFUL = (Outcome.ERROR, Outcome.LOST)
"""Outcomes that a stop signal may explain."""


@dataclass
class HeldJobs:
    """Guarded by the lock of `WorkerState`.

    A lease passes from `tokens` and `slots_in_hand` (the runner has it) to `doubtful` or `outbox` (it has
    ended). It leaves `tokens` when the server has acknowledged the settlement or the release.
    """

    tokens: dict[int, int] = field(default_factory=dict)
    """Job id -> attempt of every lease held."""
    slots_in_hand: int = 0
    """Slots of the attempts that the runner has and that have not ended."""
    wide: dict[Token, int] = field(default_factory=dict)
    """The slots of each attempt in hand that takes more than one."""
    proofs: dict[Token, tuple[str, str]] = field(default_factory=dict)
    """Request and digest of the lease of each attempt that the runner has."""
    outbox: deque[Settlement] = field(default_factory=deque)
    """Attempts that have ended and are not settled."""
    doubtful: deque[Settlement] = field(default_factory=deque)
    """Errors and deaths of a moment ago: they are given back should this worker be told to stop."""
    recent: deque[Settlement] = field(default_factory=lambda: deque(maxlen=RECENT_SETTLEMENTS))
    """Acknowledged settlements: a server that goes back in time forgets the last ones."""

    @property
    def running(self) -> int:
        """How many attempts the runner has."""
        return self.slots_in_hand - sum(slots - 1 for slots in self.wide.values())

    def take_on(self, leases: Iterable[Lease]) -> int:
        """Hold these leases; returns how many slots they take."""
        taken = 0
        for lease in leases:
            self.tokens[lease.id] = lease.attempt
            self.proofs[lease.id, lease.attempt] = (lease.request, lease.digest)
            taken += lease.slots
            if lease.slots > 1:
                self.wide[lease.id, lease.attempt] = lease.slots
        self.slots_in_hand += taken
        return taken

    def let_go(self, token: Token) -> None:
        """The runner does not have this attempt any more."""
        self.slots_in_hand -= self.wide.pop(token, 1)
        self.proofs.pop(token, None)

    def strike_off(self, job: int, attempt: int) -> None:
        """This lease is held no more. The job may be held again by now, as another attempt."""
        if self.tokens.get(job) == attempt:
            del self.tokens[job]

    def add_ended(self, settlement: Settlement, *, is_doubtful: bool) -> None:
        (self.doubtful if is_doubtful else self.outbox).append(settlement)

    def take_batch(self) -> list[Settlement]:
        """The oldest unsettled attempts, as many as one call may carry."""
        batch: list[Settlement] = []
        size = 0
        while self.outbox and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            settlement = self.outbox.popleft()
            size += len(settlement.body) + len(settlement.output)
            batch.append(settlement)
        return batch

    def put_back(self, settlements: Sequence[Settlement]) -> None:
        """The call that carried these failed."""
        self.outbox.extendleft(reversed(settlements))

    def acknowledge(self, settlements: Iterable[Settlement]) -> None:
        """These are on the server. Remember for a while those that took long to make and are not large."""
        for settlement in settlements:
            self.strike_off(settlement.id, settlement.attempt)
            size = len(settlement.body) + len(settlement.output)
            if settlement.run_ms >= REMEMBER_IF_LONGER_MS and size <= REMEMBER_UP_TO_BYTES:
                self.recent.append(settlement)

    def settle_again(self, unknown: Sequence[Token]) -> list[Token]:
        """Put remembered settlements of these tokens back into the outbox. Returns their tokens."""
        found = {(settlement.id, settlement.attempt): settlement for settlement in self.recent}
        again = [token for token in unknown if token in found]
        self.outbox.extend(found[token] for token in again)
        return again

    def adopt_twins(self, leases: Sequence[Lease]) -> list[Lease]:
        """Those leases whose token belongs to an attempt that runs here already.

        When the config is the same, the attempt is settled under the new lease from now on.
        """
        twins = [lease for lease in leases if (lease.id, lease.attempt) in self.proofs]
        for lease in twins:
            token = lease.id, lease.attempt
            if self.proofs[token][1] == lease.digest:
                self.proofs[token] = (lease.request, lease.digest)
                self.tokens[lease.id] = lease.attempt
        return twins

    def is_leased_by(self, lease: Lease) -> bool:
        """Whether the attempt that runs here under the token of this lease was leased by it."""
        return self.proofs.get((lease.id, lease.attempt), ("", ""))[0] == lease.request

    def decide_doubtful(self, signals: Signals, latest: float) -> list[Release]:
        """Decide what becomes of errors and deaths. Returns those to give back: a stop signal explains them.

        Those that ended before `latest` (monotonic, s) are settled: no signal can explain them any more.
        """
        releases: list[Release] = []
        while self.doubtful:
            settlement = self.doubtful[0]
            if signals.explain(settlement.ended_at):
                last_line = settlement.body.decode(errors="replace").strip().rpartition("\n")[2]
                reason = f"drain: {signals.reason}; it ended with: {last_line}"
                releases.append(Release(settlement.id, settlement.attempt, reason[:MAX_REASON_LENGTH]))
                self.strike_off(settlement.id, settlement.attempt)
            elif settlement.ended_at <= latest:
                self.outbox.append(settlement)
            else:
                break
            self.doubtful.popleft()
        return releases
