"""Reads why a campaign's jobs, or one of them, wait, run or ended as they did.

::

    live workers, then counts ──▶ what keeps the whole campaign: a pause, no worker, all busy, a limit
    shapes, due times, order ───▶ what keeps one job, or some of them
    leases, outcome, attempts ──▶ where a job runs, and how it ended

Each read is bounded: it grows with the workers and the shapes, not with the jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.meta import created_ms_of, label_of, text_of
from queue_eval.campaign.places import Place, hosts_by_worker, place_of
from queue_eval.campaign.registry import LiveWorker, WorkerCard, live_workers
from queue_eval.campaign.result_stream import judged, lost_entry
from queue_eval.campaign.waiting import due_ms_of, first_due_ms, first_pending, pending_ahead
from queue_eval.model.job import Execution
from queue_eval.model.moves import Snapshot
from queue_eval.model.shape import Shape
from queue_eval.model.states import RELEASED, Method, State
from queue_eval.views.attendance import gives_signs, leases_of, why_unserved
from queue_eval.views.endings import ending, last_line, told_attempt, where
from queue_eval.views.formats import shorten, shown_duration
from queue_eval.views.pace import Pace, newest_times_ms, pace_of
from queue_eval.views.reasons import OFTEN_GIVEN_BACK, PASSED_OVER_S, Reason, Reasons
from queue_eval.views.unfit import find_unfit

_MAX_OF_A_KIND = 5
"""How many jobs, shapes or refusals of the same kind a campaign's reasons name."""

_LOOK_AT = 100
"""How many of the first pending jobs are looked at for checkpoints that no worker sees."""


class Explanation(NamedTuple):
    """Why something is as it is: the reasons that hold, the most important first; there is at least one."""

    state: State | None
    """Of the job; None for a campaign."""
    reasons: list[Reason]
    attempts: list[Execution]
    """Those of the job that are on record, oldest first."""
    now_ms: int
    """The server's time."""

    def attempt_lines(self) -> list[str]:
        now = datetime.fromtimestamp(self.now_ms / 1000, UTC)
        return [told_attempt(execution, now) for execution in self.attempts]

    def as_json(self) -> dict[str, Any]:
        first, *others = self.reasons
        attempts = [
            {"attempt": one.number, "outcome": one.outcome, "cause": one.cause, "sentence": line}
            | {"worker": one.worker, "host": one.host, "run_s": one.run_s}
            for one, line in zip(self.attempts, self.attempt_lines(), strict=True)
        ]
        more = {"also": [reason.as_json() for reason in others], "attempts": attempts}
        return {"state": None if self.state is None else self.state.value} | first.as_json() | more


class Found(NamedTuple):
    """What was read of a campaign at one look."""

    live: Sequence[LiveWorker]
    """All live workers, read before the snapshot: see `why_unserved`."""
    meta: Mapping[str, bytes]
    snapshot: Snapshot
    times_ms: Sequence[int]
    """When the newest results came (Unix), the newest last."""


class Explainer:
    """Explains one campaign as it was when this was made, or when it was `found`."""

    def __init__(self, queue: CampaignCommands, found: Found | None = None) -> None:
        if found is None:
            live = live_workers(queue.link)
            found = Found(live, queue.meta(), queue.snapshot(), newest_times_ms(queue))
        self._queue = queue
        self._workers: Sequence[LiveWorker] = [worker for worker in found.live if gives_signs(worker)]
        self._meta = found.meta
        self._snapshot = found.snapshot
        self._times_ms = found.times_ms
        self._reasons = Reasons(queue.campaign, queue.link.access)
        label = label_of(self._meta)
        attending = {at.worker for at in self._snapshot.workers if at.expiry_ms > self._snapshot.now_ms}
        cards = [worker.card for worker in self._workers]
        self._leasing = leases_of(queue.campaign, label, cards, attending)
        self._serving = [card for card in cards if card.serves(queue.campaign, label)]
        self.unserved = why_unserved(
            queue.campaign, label, self._snapshot, self._workers, queue.link.access
        )
        """Why nobody serves it; None while somebody does, or need not."""
        self._blocking = list(self._find_blocking(attending))

    def campaign(self) -> Explanation:
        """Why the campaign's jobs wait, or that it goes well, or is finished."""
        snapshot = self._snapshot
        if not snapshot.last_id:
            return self._of_campaign([self._reasons.empty()])
        if not snapshot.outstanding:
            return self._of_campaign([self._reasons.finished(snapshot.counts)])
        found = [*self._blocking, *self._find_partial()]
        # What dead workers hold waits, too.
        running = sum(at.running for at in snapshot.workers if at.expiry_ms > snapshot.now_ms)
        if running or not found:
            waiting = snapshot.outstanding - running
            found.append(self._reasons.goes_on(running, waiting, self.pace.time_left_s))
        return self._of_campaign(found)

    def job(self, job: int) -> Explanation:
        """Why the job waits, where it runs, or how it ended."""
        place = place_of(self._queue, job)
        attempts = ExecutionReader(self._queue).executions_of(job)
        if place.entry is not None:
            return self._of_ended(place, place.entry, attempts)
        if place.worker:
            found = self._why_held(place)
        elif (due_ms := due_ms_of(self._queue, job)) is not None and due_ms > self._snapshot.now_ms:
            why = _why_delayed(attempts)
            found = [self._reasons.delayed(job, due_ms, self._snapshot.now_ms, why), *self._blocking]
        else:
            found = self._why_pending(job)
        return Explanation(place.state, found, attempts, self._snapshot.now_ms)

    # The whole campaign -------------------------------------------------------------------------------------

    def _find_blocking(self, attending: set[str]) -> Iterator[Reason]:
        """What keeps all jobs that wait."""
        snapshot, reasons = self._snapshot, self._reasons
        running = snapshot.counts[State.RUNNING]
        if snapshot.paused:
            yield reasons.paused()
        if self.unserved is not None:
            yield self.unserved
        starting = [card for card in self._serving if card.announced and card.name not in attending]
        if starting and not self._leasing and self.unserved is None:
            yield reasons.starting(starting)
        # Attempts that are forwarded take no slots.
        has_slots = text_of(self._meta, "method") not in (Method.RAY, Method.RQ)
        could_run = has_slots and snapshot.counts[State.PENDING] and not running and not snapshot.paused
        if could_run and self._leasing and all(card.is_full for card in self._leasing):
            yield reasons.busy(len(self._leasing))
        most = text_of(self._meta, "most_running")
        if most.isdigit() and int(most) <= running and snapshot.outstanding > running:
            yield reasons.limit(int(most), running)

    def _find_partial(self) -> Iterator[Reason]:
        """What keeps some of the jobs."""
        queue, reasons, snapshot = self._queue, self._reasons, self._snapshot
        unfit = (reason for shape in queue.pending_shapes() for reason in self._find_unfit("a job", shape))
        yield from islice(unfit, _MAX_OF_A_KIND)
        for job, times in islice(queue.give_backs(OFTEN_GIVEN_BACK), _MAX_OF_A_KIND):
            yield reasons.given_back(job, times)
        refusing = [worker.card for worker in self._workers if queue.campaign in worker.card.refused]
        for card in refusing[:_MAX_OF_A_KIND] if self.unserved is None else ():
            yield reasons.refuses([card.name], card.refused[queue.campaign], served=bool(self._leasing))
        first = first_pending(queue, _LOOK_AT)
        left = zip(first, queue.distant_of(first), strict=True)
        passed_over = ((job, since_ms) for job, (since_ms, _) in left if self._is_left(since_ms))
        for job, since_ms in islice(passed_over, _MAX_OF_A_KIND):
            yield reasons.checkpoint_elsewhere(f"job {job}", since_ms)
        if scheduled := snapshot.counts[State.SCHEDULED]:
            yield reasons.some_delayed(scheduled, first_due_ms(queue) or snapshot.now_ms, snapshot.now_ms)

    @cached_property
    def pace(self) -> Pace:
        """How fast the campaign goes."""
        created_ms, is_served = created_ms_of(self._meta), self.unserved is None
        return pace_of(self._queue, self._snapshot, self._times_ms, created_ms, is_served=is_served)

    def _of_campaign(self, reasons: list[Reason]) -> Explanation:
        return Explanation(None, reasons, [], self._snapshot.now_ms)

    # One job ------------------------------------------------------------------------------------------------

    def _why_pending(self, job: int) -> list[Reason]:
        queue, reasons, subject = self._queue, self._reasons, f"job {job}"
        (shape,), ((since_ms, _),) = queue.shapes_of([job]), queue.distant_of([job])
        found = [*self._blocking, *self._find_unfit(subject, shape)]
        is_kept = bool(found)
        if self._is_left(since_ms):
            found.append(reasons.checkpoint_elsewhere(subject, since_ms))
        found += self._find_given_back(job)
        if not is_kept:
            ahead = pending_ahead(queue, job, shape) or 0
            rate = self.pace.rate_per_s
            found.append(reasons.behind(job, ahead, (ahead + 1) / rate if rate else None))
        return found

    def _find_unfit(self, subject: str, shape: Shape) -> Iterator[Reason]:
        for unfit in find_unfit([shape], self._serving):
            yield self._reasons.unfit(subject, unfit)
            return
        able = [card for card in self._leasing if card.could_run(shape)]
        left_s = [self._left_s(card) for card in able]
        if shape.time_s and left_s and max(left_s) < shape.time_s:
            yield self._reasons.too_little_time_left(subject, shape, max(left_s))

    def _is_left(self, since_ms: int) -> bool:
        """Whether a job that was passed over then, or never (0), is still left to workers that see its
        checkpoint."""
        return since_ms > 0 and self._snapshot.now_ms - since_ms < PASSED_OVER_S * 1000

    def _left_s(self, card: WorkerCard) -> float:
        """How long a job could run on this worker that began now, by its host's clock and the server's.

        It may be longer by the seconds that the worker took to start.
        """
        if card.longest_job_s is None or card.created is None:
            return float("inf")
        return max(0.0, card.created + card.longest_job_s - self._snapshot.now_ms / 1000)

    def _find_given_back(self, job: int) -> Iterator[Reason]:
        times = dict(self._queue.give_backs(OFTEN_GIVEN_BACK)).get(job)
        if times is not None:
            yield self._reasons.given_back(job, times)

    def _why_held(self, place: Place) -> list[Reason]:
        """Where a held job runs."""
        job, now_ms = place.id, self._snapshot.now_ms
        at = where(place.worker, hosts_by_worker(self._queue, [place.worker])[place.worker])
        leases = {lease.worker: lease.expiry_ms for lease in self._snapshot.workers}
        over_ms = now_ms - leases.get(place.worker, now_ms + 1)
        if over_ms >= 0:
            return [self._reasons.worker_lost(job, at, over_ms / 1000)]
        if not place.has_begun:
            return [self._reasons.on_a_worker(job, at)]
        since_s = None if place.began_ms is None else max(0, now_ms - place.began_ms) / 1000
        found = [self._reasons.running(job, at, place.attempt, since_s, self._told(job))]
        ((_, anew),) = self._queue.distant_of([job])
        if anew:
            found.append(self._reasons.began_anew(f"job {job}", anew))
        return found + list(self._find_given_back(job))

    def _told(self, job: int) -> str:
        """What a running job has told of itself, as the end of a sentence."""
        queue = self._queue
        (head,), (asked,) = queue.report_heads([job]), queue.stops_of([job])
        told = ", and was asked to stop early" if asked else ""
        reports = queue.reports_of(job, (head.attempt, head.number - 1)) if head is not None else []
        if reports:
            last = reports[-1][1]
            values = shorten(", ".join(f"{name}={value:.6g}" for name, value in last.values.items()), 100)
            ago = shown_duration(max(0.0, self._snapshot.now_ms / 1000 - last.at.timestamp()))
            told += f"; its last report is step {last.step} ({values}), {ago} ago"
        return told

    def _of_ended(self, place: Place, entry_id: str, attempts: list[Execution]) -> Explanation:
        entries = self._queue.entries([entry_id])
        entry = judged(entries[0]) if entries else lost_entry(place.id, entry_id)
        host = hosts_by_worker(self._queue, [entry.worker]).get(entry.worker)
        reason = ending(self._reasons, entry, host)
        return Explanation(entry.state, [reason], attempts, self._snapshot.now_ms)


def _why_delayed(attempts: Sequence[Execution]) -> str:
    """What a scheduled job waits after."""
    if not attempts:
        return "it was submitted with a delay"
    last = attempts[-1]
    verb = "was given back" if last.outcome == RELEASED else f"failed ({last.cause})"
    return f"attempt {last.number} {verb}, and it is tried again then: {last_line(last.error)}"
