"""A campaign as docs/protocol.md tells it: no server, no batches, each rule where one would look for it.

Written from the document, not from the scripts: where they disagree, one of the three is wrong. What a script
leaves open (in which order a reclaim takes jobs) the model is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha1
from typing import Any

from queue_eval.model.moves import (
    Attendance,
    Enqueued,
    EnqueueReply,
    Extended,
    Lease,
    PointBatch,
    Reclaimed,
    Release,
    Settled,
    Settlement,
    Snapshot,
    Stopped,
    Submission,
)
from queue_eval.model.states import Outcome, State

RESERVED_MS = 2000

SUCCESSES = (Outcome.OK, Outcome.STOPPED)

Token = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One terminal outcome in the result stream."""

    job: int
    state: State
    attempts: int
    worker: str = ""
    source: str = ""
    cause: str = ""
    body: bytes = b""
    releases: int = 0
    reports: int = 0


@dataclass(frozen=True)
class Held:
    worker: str
    attempt: int
    request: str
    started: bool


@dataclass
class Job:
    id: int
    config: str
    submitted_ms: int
    priority: int
    slots: int
    state: State = State.PENDING
    due_ms: int = 0
    held: Held | None = None
    entry: int | None = None
    """Its outcome's place in the result stream, from 0."""
    output: bytes = b""
    attempts: int = 0
    """Those that have ended otherwise than by success."""
    failures: int = 0
    losses: int = 0
    uncharged: int = 0
    suspect: bool = False
    releases: int = 0
    give_backs: int = 0
    """How often in a row it was given back without a new checkpoint."""
    stop: bool = False
    checkpoint: tuple[int, int] | None = None
    """Attempt and save."""
    points: list[Token] = field(default_factory=list)
    """Attempt and number of each report."""
    looked: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.id

    @property
    def digest(self) -> str:
        return sha1(self.config.encode(), usedforsecurity=False).hexdigest()[:16]

    @property
    def history(self) -> tuple[int, ...] | None:
        """As it stands in the column `attempts`."""
        if self.state == State.SUCCEEDED or not self.attempts:
            return None
        counts = self.attempts, self.failures, self.losses, self.uncharged, int(self.suspect)
        return (*counts, self.releases) if self.releases else counts


@dataclass(frozen=True)
class Options:
    max_attempts: int = 1
    max_losses: int = 3
    retry_first_ms: int = 1000
    retry_factor: int = 2
    retry_max_ms: int = 60_000
    most_running: int | None = None


@dataclass
class Model:
    options: Options
    now_ms: int
    revision: int = 1
    retried: int = 0
    paused: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)
    results: list[Entry] = field(default_factory=list)
    failures: list[tuple[int, int, str, str, bytes]] = field(default_factory=list)
    copies: dict[str, list[int]] = field(default_factory=dict)
    """Config -> the jobs that have it."""
    workers: dict[str, int] = field(default_factory=dict)
    """When the lease of each worker expires (ms)."""
    requests: dict[str, str] = field(default_factory=dict)
    batches: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Driver -> sequence and first id of its last batch without reuse."""
    reserving: dict[str, int] = field(default_factory=dict)
    was_restarted: bool = False
    asked_ms: int = field(init=False)
    """When somebody last asked for expired leases; at first, when the campaign was made."""
    back_ms: int | None = None
    """When it was noticed that the server had been away, and until when whoever noticed it holds off."""
    holds_off_until_ms: int = 0

    def __post_init__(self) -> None:
        self.asked_ms = self.now_ms

    # Drivers

    def open(self, options: Options) -> None:
        self.options = options
        self.revision += 1

    def enqueue(
        self, driver: str, sequence: int, submissions: Sequence[Submission], *,
        reuse: bool, priority: int, delay_ms: int, slots: int,
    ) -> EnqueueReply:  # fmt: skip
        """`entry` and `fence` of the reply are places in the result stream, as text."""
        if not reuse:
            last, first, at_ms = self.batches.get(driver, (0, 0, 0))
            if sequence == last:
                again = [Enqueued(first + i, None, at_ms) for i in range(len(submissions))]
                return EnqueueReply(self.now_ms, again, None)
            if sequence < last:
                return EnqueueReply(self.now_ms, [], None)
            self.batches[driver] = (sequence, len(self.jobs) + 1, self.now_ms)
        replies: list[Enqueued] = []
        joined_open = False
        for wanted in submissions:
            copies = self.copies.setdefault(wanted.config, [])
            if reuse and wanted.occurrence <= len(copies):
                job = self.jobs[copies[wanted.occurrence - 1]]
                joined_open |= job.entry is None
                entry = None if job.entry is None else str(job.entry)
                replies.append(Enqueued(job.id, entry, job.submitted_ms))
                continue
            job = Job(len(self.jobs) + 1, wanted.config, self.now_ms, priority, slots)
            if delay_ms:
                job.state, job.due_ms = State.SCHEDULED, self.now_ms + delay_ms
            self.jobs[job.id] = job
            copies.append(job.id)
            replies.append(Enqueued(job.id, None, self.now_ms))
        fence = str(len(self.results) - 1) if joined_open and self.retried else None
        return EnqueueReply(self.now_ms, replies, fence)

    def cancel(self, ids: Iterable[int]) -> list[int]:
        cancelled = []
        for job in self._known(ids):
            if job.entry is None:
                worker = self._withdraw(job)
                self._finish(job, Entry(job.id, State.CANCELLED, job.attempts - job.uncharged, worker))
                cancelled.append(job.id)
        return cancelled

    def retry(self, ids: Iterable[int]) -> list[int]:
        again = []
        for job in self._known(ids):
            if job.state in (State.FAILED, State.CANCELLED):
                job.state, job.entry, job.output, job.submitted_ms = State.PENDING, None, b"", self.now_ms
                job.failures, job.losses, job.suspect, job.releases = 0, 0, False, 0
                job.stop, job.give_backs = False, 0
                self.retried += 1
                again.append(job.id)
        return again

    def pause(self, paused: bool) -> bool:
        changed = self.paused != paused
        self.paused = paused
        return changed

    # Workers

    def settle(
        self, worker: str, settlements: Sequence[Settlement], *,
        lease_ms: int, request: str, room: int, prefetch: int, slots: int,
    ) -> Settled:  # fmt: skip
        verdicts = [""] * len(settlements)
        for is_ok in (True, False):
            for i, settlement in enumerate(settlements):
                if (settlement.outcome in SUCCESSES) == is_ok:
                    verdicts[i] = self._settle_one(worker, settlement)
        leases: list[Lease] = []
        due, why_no_more = None, (0, False, False)
        if lease_ms:
            self.workers[worker] = self.now_ms + lease_ms
            due = self._promote()
            leases, *why_no_more = self._lease(worker, request, room, prefetch, slots)
        return Settled(leases, due, self.now_ms, self.revision, verdicts, *why_no_more)

    def _settle_one(self, worker: str, settlement: Settlement) -> str:
        job = self.jobs.get(settlement.id)
        if job is None:
            return "stale"
        if job.entry is not None:
            return "finished"
        outcome = settlement.outcome
        is_mine = job.held is not None and _is_of(settlement, job.held, worker)
        if outcome in SUCCESSES:
            if is_mine:
                job.attempts, job.held = settlement.attempt, None
            elif settlement.digest not in ("", job.digest):
                return "stale"
            else:
                self._withdraw(job)
                job.attempts = max(job.attempts, settlement.attempt)
            executions = max(job.attempts - job.uncharged, 1)
            job.output = settlement.output
            self._finish(
                job,
                Entry(
                    job.id, State.SUCCEEDED, executions, worker, settlement.source,
                    "stopped" if outcome == Outcome.STOPPED else "", settlement.body,
                ),
            )
            return "recorded"
        if not is_mine:
            return "stale"
        job.attempts, job.held, job.suspect = settlement.attempt, None, False
        self.failures.append((job.id, settlement.attempt, outcome.value, worker, settlement.body))
        if outcome == Outcome.LOST:
            job.losses += 1
            is_over = job.losses >= self.options.max_losses
            job.state = State.PENDING
        else:
            job.failures += 1
            is_over = job.failures >= self.options.max_attempts
            job.state = State.SCHEDULED
            delay = self.options.retry_first_ms * self.options.retry_factor ** (job.failures - 1)
            job.due_ms = self.now_ms + min(self.options.retry_max_ms, delay)
        if not is_over:
            return "again"
        job.output = settlement.output
        executions, source, body = job.attempts - job.uncharged, settlement.source, settlement.body
        self._finish(job, Entry(job.id, State.FAILED, executions, worker, source, outcome.value, body))
        return "recorded"

    def extend(self, worker: str, lease_ms: int, tokens: Sequence[Token]) -> Extended:
        self.workers[worker] = self.now_ms + lease_ms
        held = self._held_by(worker)
        lost = [self.jobs.get(id_) or id_ for id_, attempt in tokens if (id_, attempt) not in held]
        finished = [job.id for job in lost if isinstance(job, Job) and job.entry is not None]
        taken = [job if isinstance(job, int) else job.id for job in lost]
        taken = [id_ for id_ in taken if id_ not in finished]
        unknown = [token for token in held if token not in tokens]
        named = [token for token in tokens if token in held]
        stops = [id_ for id_, _ in named if self.jobs[id_].stop]
        return Extended(finished, taken, self.revision, unknown, stops)

    def release(self, worker: str, releases: Sequence[Release], *, leave: bool) -> int:
        released = 0
        for id_, attempt, reason, delayed in releases:
            if (id_, attempt) in self._held_by(worker):
                job = self.jobs[id_]
                job.attempts, job.held, job.state = attempt, None, State.PENDING
                job.uncharged += 1
                if reason:
                    job.releases += 1
                    job.give_backs += 1
                    self.failures.append((id_, attempt, "released", worker, reason.encode()))
                if delayed:
                    job.state = State.SCHEDULED
                    times = max(job.give_backs if reason else 1, 1)
                    delay = self.options.retry_first_ms * self.options.retry_factor ** (times - 1)
                    job.due_ms = self.now_ms + min(self.options.retry_max_ms, delay)
                released += 1
        if leave and not self._held_by(worker):
            self._forget(worker)
        return released

    def report(self, worker: str, batches: Sequence[PointBatch]) -> list[bool]:
        return [self._report_one(worker, batch) for batch in batches]

    def _report_one(self, worker: str, batch: PointBatch) -> bool:
        job = self.jobs.get(batch.id)
        held = job.held if job else None
        if job is None or held is None or held.worker != worker or held.attempt != batch.attempt:
            return False
        if batch.request not in ("", held.request):
            return False
        for line in batch.lines.splitlines():
            number = int(line.split()[0])
            newest = job.points[-1] if job.points else (0, 0)
            if newest[0] != batch.attempt or newest[1] < number:
                job.points.append((batch.attempt, number))
        if batch.checkpoint:
            save = batch.attempt, int(batch.checkpoint.split()[0])
            if job.checkpoint is None or save > job.checkpoint:
                job.checkpoint, job.give_backs = save, 0
        if batch.looks:
            job.looked = batch.attempt
        return True

    # Anybody

    def stop(self, ids: Iterable[int]) -> Stopped:
        jobs = [job for job in self._known(dict.fromkeys(ids)) if job.entry is None]
        for job in jobs:
            has_begun = job.held is not None and job.held.started
            job.stop |= has_begun or job.attempts > job.uncharged or job.releases > 0
        asked = [job for job in jobs if job.stop]
        looking = [job.id for job in asked if job.held is not None and job.held.attempt == job.looked]
        return Stopped([job.id for job in asked], looking)

    def reclaim(self, *, grace_ms: int, worker: str, order: Sequence[int]) -> Reclaimed:
        """`order`: in which order the jobs are taken back."""
        is_named = worker != ""
        if not is_named:
            until = self._holds_off(grace_ms)
            if not self.workers:
                return Reclaimed([], False, None)
            expiry, worker = min((expiry, name) for name, expiry in self.workers.items())
            if max(expiry, until) > self.now_ms:
                return Reclaimed([], False, expiry if expiry > self.now_ms else until)
        elif worker not in self.workers:
            return Reclaimed([], False, None)
        held = self._held_by(worker)
        assert sorted(id_ for id_, _ in held) == sorted(order), "all it holds is taken back"
        for id_ in order:
            job = self.jobs[id_]
            assert job.held is not None
            started, job.attempts = job.held.started, job.held.attempt
            job.held, job.state = None, State.PENDING
            if not started:
                job.uncharged += 1
                job.suspect = True
                continue
            job.losses += 1
            job.suspect = False
            body = f"worker {worker} died or was cut off while it ran this job".encode()
            self.failures.append((id_, job.attempts, "lost", worker, body))
            if job.losses >= self.options.max_losses:
                executions = job.attempts - job.uncharged
                self._finish(job, Entry(id_, State.FAILED, executions, worker, "", "lost", body))
        self._forget(worker)
        return Reclaimed(list(order), not is_named, None)

    def _holds_off(self, grace_ms: int) -> float:
        """Until when nothing is reclaimed, for the server was away."""
        away_ms = self.now_ms - self.asked_ms
        if self.was_restarted or (grace_ms and away_ms > grace_ms / 2):
            self.was_restarted = False
            self.back_ms, self.holds_off_until_ms = self.now_ms, self.now_ms + grace_ms
        if away_ms > grace_ms / 8:
            self.asked_ms = self.now_ms
        if self.back_ms is None:
            return 0
        return min(self.holds_off_until_ms, self.back_ms + grace_ms)

    def snapshot(self) -> Snapshot:
        counts = dict.fromkeys(State, 0)
        for job in self.jobs.values():
            counts[job.state] += 1
        workers = sorted((expiry, name) for name, expiry in self.workers.items())
        attending = [Attendance(name, expiry, len(self._held_by(name))) for expiry, name in workers]
        return Snapshot(len(self.jobs), counts, self.paused, self.now_ms, attending)

    # Leases

    def _promote(self) -> int | None:
        scheduled = [job for job in self.jobs.values() if job.state == State.SCHEDULED]
        for job in scheduled:
            if job.due_ms <= self.now_ms:
                job.state = State.PENDING
        return min((job.due_ms for job in scheduled if job.state == State.SCHEDULED), default=None)

    def _lease(
        self, worker: str, request: str, room: int, prefetch: int, slots: int
    ) -> tuple[list[Lease], int, bool, bool]:
        """The leases, for which width the worker reserves, whether wide jobs wait that were not for it, and
        whether narrow ones do."""
        last = self.requests.get(worker)
        if request == last:
            made = [job for job in self.jobs.values() if _is_made_by(job.held, worker, request)]
            return [self._as_lease(job) for job in made], 0, False, False
        if last is not None and _is_older(request, last):
            return [], 0, False, False
        self.requests[worker] = request
        most = self.may_be_held
        if self.paused or most < 1:
            return [], 0, False, False
        share = prefetch
        if len(self.workers) > 1:
            share = max(0, min(prefetch, (self._narrow_pending() - room) // len(self.workers)))
        is_prefetch_limited, prefetch = share < prefetch, share
        if room + prefetch < 1:
            return [], 0, False, is_prefetch_limited and self._narrow_pending() > 0

        narrow, wide, reserved = self._choose(worker, room, prefetch, slots)
        room -= sum(job.slots for job in wide)
        suspects = [job for job in narrow if job.suspect]
        chosen = suspects[: max(0, room)] + [job for job in narrow if not job.suspect]
        for i, job in enumerate(chosen):
            job.held = Held(worker, job.attempts + 1, request, started=i < room)
        for job in wide:
            job.held = Held(worker, job.attempts + 1, request, started=True)
        for job in chosen + wide:
            job.state = State.RUNNING
        has_wide = any(job.slots > 1 for job in self.pending())
        is_full = max(0, room) <= len(chosen) < most - len(wide)
        is_limited = is_prefetch_limited and is_full and self._narrow_pending() > 0
        return [self._as_lease(job) for job in chosen + wide], reserved, has_wide, is_limited

    def _narrow_pending(self) -> int:
        return sum(job.slots == 1 for job in self.pending())

    def _choose(self, worker: str, room: int, prefetch: int, slots: int) -> tuple[list[Job], list[Job], int]:
        narrow: list[Job] = []
        wide: list[Job] = []
        most = self.may_be_held
        passes_by = False
        for job in self.pending():
            if len(narrow) + len(wide) >= most:
                break
            if job.slots == 1:
                # Nothing waits on the worker behind a wide job: it may be long.
                if room + (0 if wide else prefetch) < 1:
                    break
                narrow.append(job)
                room -= 1
            elif job.slots > slots or passes_by:
                continue
            elif job.slots <= room:
                wide.append(job)
                room -= job.slots
            elif self._reserves(worker, slots, narrow + wide):
                return narrow, wide, job.slots
            else:
                passes_by = True
        self.reserving.pop(worker, None)
        return narrow, wide, 0

    def _reserves(self, worker: str, slots: int, taken: list[Job]) -> bool:
        """Unless as many others do as there are wide jobs before the first narrow one that is left."""
        left = [job for job in self.pending() if job not in taken]
        ahead = 0
        for job in left:
            if job.slots == 1:
                break
            ahead += job.slots <= slots
        since = self.reserving.get(worker, self.now_ms)
        others = sum(
            name != worker and self.now_ms - RESERVED_MS <= began <= since
            for name, began in self.reserving.items()
        )
        if others >= ahead:
            return False
        self.reserving.setdefault(worker, self.now_ms)
        return True

    # What is where

    def pending(self) -> list[Job]:
        return sorted((j for j in self.jobs.values() if j.state == State.PENDING), key=lambda job: job.order)

    @property
    def may_be_held(self) -> float:
        if self.options.most_running is None:
            return math.inf
        return self.options.most_running - sum(job.held is not None for job in self.jobs.values())

    def leasable(self, *, wide: bool) -> bool:
        """Whether a marker is due: somebody idle could lease such a job, or look at it."""
        waits = any((job.slots > 1) == wide for job in self.pending())
        return waits and not self.paused and self.may_be_held >= 1

    def next_ms(self) -> list[int]:
        """Moments at which something falls due or expires."""
        due = [job.due_ms for job in self.jobs.values() if job.state == State.SCHEDULED]
        moments = [*due, *self.workers.values(), self.holds_off_until_ms]
        return sorted(moment for moment in set(moments) if moment > self.now_ms)

    def _held_by(self, worker: str) -> list[Token]:
        return [
            (job.id, job.held.attempt)
            for job in self.jobs.values()
            if job.held is not None and job.held.worker == worker
        ]

    def _known(self, ids: Iterable[int]) -> list[Job]:
        return [self.jobs[id_] for id_ in ids if id_ in self.jobs]

    def _as_lease(self, job: Job) -> Lease:
        assert job.held is not None
        held = job.held
        checkpoint = f"{job.checkpoint[0]} {job.checkpoint[1]} here" if job.checkpoint else ""
        return Lease(
            job.id, held.attempt, held.started, job.config.encode(), job.slots, held.request, job.stop,
            checkpoint,
        )  # fmt: skip

    def _withdraw(self, job: Job) -> str:
        """Take an open job from where it is; returns who held it. What was only prefetched had not begun."""
        held, job.held = job.held, None
        if held is None:
            return ""
        job.attempts = held.attempt
        job.uncharged += not held.started
        return held.worker

    def _finish(self, job: Job, entry: Entry) -> None:
        job.state, job.entry = entry.state, len(self.results)
        self.results.append(replace(entry, releases=job.releases, reports=len(job.points)))
        job.stop, job.give_backs = False, 0
        if entry.state != State.FAILED:
            job.checkpoint = None

    def _forget(self, worker: str) -> None:
        self.workers.pop(worker, None)
        self.reserving.pop(worker, None)


def _is_of(settlement: Settlement, held: Held, worker: str) -> bool:
    """A token alone may have been given twice, by a server that has gone back in time."""
    is_token = (held.worker, held.attempt) == (worker, settlement.attempt)
    return is_token and settlement.request in ("", held.request)


def _is_made_by(held: Held | None, worker: str, request: str) -> bool:
    return held is not None and (held.worker, held.request) == (worker, request)


def _is_older(request: str, last: str) -> bool:
    """Both are <life>-<number>."""
    (life, number), (last_life, last_number) = request.split("-"), last.split("-")
    return life == last_life and int(number) < int(last_number)


def state_of(model: Model) -> Any:
    """All that a repeated call must not change."""
    jobs = {job.id: replace(job, points=[*job.points]) for job in model.jobs.values()}
    return jobs, list(model.results), list(model.failures), model.paused, model.retried
