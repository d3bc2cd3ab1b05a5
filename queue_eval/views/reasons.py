"""The closed list of reasons why jobs wait, run or ended as they did: each a sentence, and what to do.

Every view takes its sentences from here, so that `explain`, `status`, `doctor` and drivers' warnings say the
same. `Reasons` makes the sentences from what was read; it reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from queue_eval.campaign.registry import WorkerCard
from queue_eval.model.shape import Shape
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_command, spell_worker
from queue_eval.views.formats import shorten, shown_duration, shown_time
from queue_eval.views.unfit import Unfit

OFTEN_GIVEN_BACK = 10
"""A job that was given back so often in a row, without a new checkpoint, never gets anywhere."""

PASSED_OVER_S = 600
"""For so long a job is left to workers that see its checkpoint (``near_first.lua``)."""

MAX_SHOWN_WORKERS = 3
"""How many workers one sentence names."""

_MAX_LABELS = 100
"""How many characters the labels of a worker may take."""


class Kind(StrEnum):
    """What a reason says. The words are part of `explain --json`."""

    PAUSED = "paused"
    REFUSED = "refused"
    DRAINING = "draining"
    WRONG_LABEL = "wrong_label"
    NO_WORKER = "no_worker"
    STARTING = "starting"
    BUSY_ELSEWHERE = "busy_elsewhere"
    LIMIT = "limit"
    TOO_WIDE = "too_wide"
    TOO_LITTLE_TIME = "too_little_time"
    CHECKPOINT_ELSEWHERE = "checkpoint_elsewhere"
    GIVEN_BACK_OFTEN = "given_back_often"
    DELAYED = "delayed"
    BEHIND = "behind"
    ON_A_WORKER = "on_a_worker"
    WORKER_LOST = "worker_lost"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GOES_ON = "goes_on"
    FINISHED = "finished"
    EMPTY = "empty"


class Reason(NamedTuple):
    """One reason, in words. `sentence` and `advice` end without a full stop."""

    kind: Kind
    sentence: str
    advice: str
    """What to do."""

    @property
    def text(self) -> str:
        """Both in one line."""
        return f"{self.sentence}; {self.advice}"

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind.value, "sentence": self.sentence, "advice": self.advice}


class Inside(StrEnum):
    """Where a driver that waits for a full worker runs, and so what that worker may be full of."""

    NO_JOB = "with jobs of other campaigns"
    ANOTHER_CAMPAIGN = "with jobs of other campaigns, maybe with the very job that this driver runs in"
    THIS_CAMPAIGN = "with jobs that may wait as this one does, for a slot that they take themselves"


@dataclass(frozen=True)
class Reasons:
    """Words the reasons of one campaign.

    Sentences about the whole campaign name it. Those about jobs do not: a warning puts the campaign before
    them. `subject` is such a job, like "job 5" or "a job".
    """

    campaign: str
    access: Access

    # The whole campaign waits ------------------------------------------------------------------------------

    def paused(self) -> Reason:
        sentence = f"campaign {self.campaign!r} is paused"
        return Reason(Kind.PAUSED, sentence, f"let it go on with: {self._command('resume')}")

    def no_worker(self, outstanding: int) -> Reason:
        return Reason(Kind.NO_WORKER, self._unserved(outstanding), self._start_worker("a worker"))

    def wrong_label(self, outstanding: int, label: str, others: Sequence[WorkerCard]) -> Reason:
        """`others`: live workers that would serve the campaign if it had one of their labels."""
        shown = [f"worker {card.name} serves {_labels(card)}" for card in others[:MAX_SHOWN_WORKERS]]
        why = f"its label is {label!r}, and {_listed(shown, len(others), behind='others serve other labels')}"
        sentence = f"{self._unserved(outstanding)}: {why}"
        return Reason(Kind.WRONG_LABEL, sentence, self._start_worker("a worker"))

    def refused(self, outstanding: int, refusing: Sequence[WorkerCard]) -> Reason:
        """Nobody serves the campaign: these workers would, and refuse."""
        shown = [
            f"worker {card.name} does not ({card.refused[self.campaign]})"
            for card in refusing[:MAX_SHOWN_WORKERS]
        ]
        sentence = f"{self._unserved(outstanding)}: {_listed(shown, len(refusing), 'nor do')}"
        return Reason(Kind.REFUSED, sentence, f"mend that, or {self._start_worker('another')}")

    def draining(self, outstanding: int, leaving: Sequence[WorkerCard]) -> Reason:
        shown = [f"worker {card.name}" for card in leaving[:MAX_SHOWN_WORKERS]]
        ends = "ends and takes" if len(leaving) == 1 else "end and take"
        sentence = f"{self._unserved(outstanding)}: {_listed(shown, len(leaving))} {ends} no more (draining)"
        return Reason(Kind.DRAINING, sentence, self._start_worker("another"))

    def refuses(self, workers: Sequence[str], why: str, *, served: bool) -> Reason:
        """Workers that refuse for the same reason. `served`: others serve the campaign."""
        others = f" (and {len(workers) - 1} others)" if len(workers) > 1 else ""
        verb = "has stepped aside from" if served else "does not serve"
        sentence = f"worker {workers[0]}{others} {verb} campaign {self.campaign!r}: {why}"
        return Reason(Kind.REFUSED, sentence, f"mend that, or {self._start_worker('another')}")

    def more_refuse(self, count: int, why: str) -> Reason:
        """So many more workers; `why` the first of them refuses."""
        sentence = f"{count} more workers do not serve campaign {self.campaign!r}, the first because: {why}"
        see = f"no more of them are told of here, see: {spell_command(self.access, 'workers', '--json')}"
        return Reason(Kind.REFUSED, sentence, see)

    def starting(self, starting: Sequence[WorkerCard]) -> Reason:
        shown = [f"worker {card.name}" for card in starting[:MAX_SHOWN_WORKERS]]
        verb = "is" if len(starting) == 1 else "are"
        sentence = f"{_listed(shown, len(starting))} {verb} being started for campaign {self.campaign!r}"
        return Reason(Kind.STARTING, sentence, "wait for some seconds")

    def busy(self, count: int, inside: Inside = Inside.NO_JOB) -> Reason:
        """All `count` workers that serve the campaign are full, and none of its jobs runs."""
        workers = f"all {count} workers that serve" if count > 1 else "the only worker that serves"
        verb = "are" if count > 1 else "is"
        sentence = f"{workers} campaign {self.campaign!r} {verb} busy {inside}"
        return Reason(Kind.BUSY_ELSEWHERE, sentence, f"wait, or {self._start_worker('another')}")

    def limit(self, most: int, held: int) -> Reason:
        runs = f"{held} {'runs' if held == 1 else 'run'}"
        sentence = f"campaign {self.campaign!r} lets {_count(most, 'job')} run at a time, and {runs}"
        return Reason(Kind.LIMIT, sentence, "wait, or open it with a larger num_workers")

    # Single jobs wait --------------------------------------------------------------------------------------

    def unfit(self, subject: str, found: Unfit) -> Reason:
        """None of the workers could ever run it."""
        kind = Kind.TOO_WIDE if found.is_too_wide else Kind.TOO_LITTLE_TIME
        return Reason(kind, f"{subject} {found.why}", self._start_worker("one", *found.words))

    def too_little_time_left(self, subject: str, shape: Shape, most_left_s: float) -> Reason:
        """The workers that had the time for it have no longer."""
        sentence = (
            f"{subject} asks for {shape.time_s} s (time_request), and the worker with the most time left has "
            f"{most_left_s:.0f} s"
        )
        words = ("-n", str(shape.slots)) if shape.slots > 1 else ()
        return Reason(Kind.TOO_LITTLE_TIME, sentence, self._start_worker("another", *words))

    def checkpoint_elsewhere(self, subject: str, since_ms: int) -> Reason:
        sentence = (
            f"{subject} is left to workers that see its checkpoint, since {shown_time(since_ms)} UTC: others "
            "run what is behind it first, for ten minutes"
        )
        advice = f"{self._start_worker('one that does')}; or name a folder that all share (checkpoints=)"
        return Reason(Kind.CHECKPOINT_ELSEWHERE, sentence, advice)

    def began_anew(self, subject: str, attempt: int) -> Reason:
        sentence = f"{subject} began anew with attempt {attempt}: its worker does not see the checkpoint"
        return Reason(Kind.CHECKPOINT_ELSEWHERE, sentence, "name a folder that all share (checkpoints=)")

    def given_back(self, job: int, times: int) -> Reason:
        sentence = (
            f"job {job} was given back {times} times in a row without a new checkpoint, so it may never end"
        )
        advice = "let it save checkpoints more often, or give it workers with more time"
        return Reason(Kind.GIVEN_BACK_OFTEN, sentence, advice)

    def more_given_back(self) -> Reason:
        sentence = "more jobs are given back again and again"
        see = f"no more of them are told of here, see: {self._command('status')}"
        return Reason(Kind.GIVEN_BACK_OFTEN, sentence, see)

    def delayed(self, job: int, due_ms: int, now_ms: int, why: str) -> Reason:
        """`why`: what it waits after."""
        left = shown_duration(max(0, due_ms - now_ms) / 1000)
        sentence = f"job {job} is delayed until {shown_time(due_ms)} UTC, in {left}: {why}"
        return Reason(Kind.DELAYED, sentence, f"wait, or cancel it with: {self._command('cancel', job)}")

    def some_delayed(self, count: int, first_ms: int, now_ms: int) -> Reason:
        left = shown_duration(max(0, first_ms - now_ms) / 1000)
        first = "" if count == 1 else "the first of them "
        verb = "is" if count == 1 else "are"
        until = f"{shown_time(first_ms)} UTC, in {left}"
        sentence = f"{_count(count, 'job')} {verb} delayed, {first}until {until}"
        see = f"wait, or see them with: {self._command('jobs', '--state', 'scheduled')}"
        return Reason(Kind.DELAYED, sentence, see)

    def behind(self, job: int, ahead: int, wait_s: float | None) -> Reason:
        """`wait_s`: when it is expected to begin; None where nobody knows."""
        others = f"behind {_count(ahead, 'other')}" if ahead else "and is the next to run"
        when = "nobody can tell how long before more has finished"
        if wait_s is not None:
            when = f"it is expected to begin in about {shown_duration(wait_s)}"
        sentence = f"job {job} waits for a free slot {others}: {when}"
        return Reason(Kind.BEHIND, sentence, f"wait, or {self._start_worker('another worker')}")

    # Single jobs run ---------------------------------------------------------------------------------------

    def on_a_worker(self, job: int, where: str) -> Reason:
        sentence = f"job {job} waits on {where} behind a short job that runs there"
        return Reason(Kind.ON_A_WORKER, sentence, "wait: it begins when a slot there is free")

    def worker_lost(self, job: int, where: str, over_s: float) -> Reason:
        sentence = (
            f"job {job} is held by {where}, which is dead or cut off: its lease ended "
            f"{shown_duration(over_s)} ago"
        )
        advice = f"any live worker or waiting driver takes it back; {self._start_worker('a worker')}"
        return Reason(Kind.WORKER_LOST, sentence, advice)

    def running(self, job: int, where: str, attempt: int, since_s: float | None, more: str) -> Reason:
        """`more`: what it has told."""
        since = "" if since_s is None else f" for {shown_duration(since_s)}"
        sentence = f"job {job} has run{since} on {where}, in attempt {attempt}{more}"
        return Reason(Kind.RUNNING, sentence, f"see it whole with: {self._command('job', job)}")

    # The end -----------------------------------------------------------------------------------------------

    def succeeded(self, job: int, where: str, attempt: int, how: str) -> Reason:
        sentence = f"job {job} succeeded{how} on {where}, in attempt {attempt}"
        return Reason(Kind.SUCCEEDED, sentence, f"see its result with: {self._command('job', job)}")

    def failed(self, job: int, attempts: int, why: str) -> Reason:
        sentence = f"job {job} failed after {_count(attempts, 'attempt')}: {why}"
        see, again = self._command("job", job), self._command("retry", job)
        return Reason(Kind.FAILED, sentence, f"see it whole with: {see}; run it again with: {again}")

    def cancelled(self, job: int, where: str) -> Reason:
        """`where`: the worker that ran it; empty for none."""
        sentence = f"job {job} was cancelled while it {f'ran on {where}' if where else 'waited'}"
        return Reason(Kind.CANCELLED, sentence, f"run it again with: {self._command('retry', job)}")

    # The whole campaign goes on, or is over ----------------------------------------------------------------

    def goes_on(self, running: int, waiting: int, left_s: float | None) -> Reason:
        left = "nobody can tell yet how long" if left_s is None else f"about {shown_duration(left_s)} left"
        runs = f"{_count(running, 'job')} of campaign {self.campaign!r} {'runs' if running == 1 else 'run'}"
        sentence = f"{runs}, {waiting} {'waits' if waiting == 1 else 'wait'}, {left}"
        return Reason(Kind.GOES_ON, sentence, f"wait, or watch it with: {self._command('status')}")

    def finished(self, counts: dict[State, int]) -> Reason:
        words = [f"{counts[state]} {state}" for state in State if state.is_final and counts[state]]
        total = sum(counts.values())
        all_of = "the only job" if total == 1 else f"all {total} jobs"
        verb = "is" if total == 1 else "are"
        sentence = f"{all_of} of campaign {self.campaign!r} {verb} finished: {', '.join(words)}"
        advice = f"see them with: {self._command('jobs')}"
        if counts[State.FAILED]:
            see, again = self._command("jobs", "--state", "failed"), self._command("retry")
            advice = f"see what failed with: {see}; run it again with: {again}"
        return Reason(Kind.FINISHED, sentence, advice)

    def empty(self) -> Reason:
        advice = "submit some; until then no worker has anything to do here"
        return Reason(Kind.EMPTY, f"campaign {self.campaign!r} has no jobs yet", advice)

    # --------------------------------------------------------------------------------------------------------

    def _unserved(self, outstanding: int) -> str:
        verb = "waits" if outstanding == 1 else "wait"
        jobs = f"{_count(outstanding, 'job')} of campaign {self.campaign!r}"
        return f"{jobs} {verb}, and nobody serves it"

    def _start_worker(self, which: str, *words: str) -> str:
        return f"start {which} with: {spell_worker(self.access, self.campaign, *words)}"

    def _command(self, name: str, *words: object) -> str:
        return spell_command(self.access, name, self.campaign, *map(str, words))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(shown: Sequence[str], total: int, before: str = "and", behind: str = "others") -> str:
    """The first of `total` things, and how many others there are."""
    rest = total - len(shown)
    return ", ".join([*shown, f"{before} {rest} {behind}"] if rest else shown)


def _labels(card: WorkerCard) -> str:
    """The labels that a worker serves."""
    if card.queues is None:
        return "campaigns without a label"
    return shorten(", ".join(map(repr, card.queues)), _MAX_LABELS)
