"""Tells how attempts and jobs ended, each in one line."""

from __future__ import annotations

from datetime import datetime

from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.model.job import Execution
from queue_eval.model.states import RELEASED, Outcome, State
from queue_eval.views.formats import shorten, shown_duration
from queue_eval.views.reasons import Reason, Reasons

_MAX_ERROR = 200
"""How many characters of an error are shown."""

_VERBS: dict[str, str] = {
    Outcome.ERROR: "failed", Outcome.TIMEOUT: "ran out of time", Outcome.LOST: "was lost",
    Outcome.NAN: "returned NaN", Outcome.INF: "returned an infinity",
}  # fmt: skip

_CAUSES: dict[str, str] = {
    Outcome.ERROR: "it raised", Outcome.TIMEOUT: "it ran out of time (time_limit):",
    Outcome.LOST: "what ran it died too often (max_losses):", Outcome.NAN: "it returned NaN:",
    Outcome.INF: "it returned an infinity:",
}  # fmt: skip


def told_attempt(execution: Execution, now: datetime) -> str:
    """An attempt in one line: where it ran, for how long, how it ended and why."""
    head = f"attempt {execution.number} on {where(execution.worker, execution.host)}"
    error = last_line(execution.error)
    why = f": {error}" if error else ""
    if execution.finished_at is None:
        began = execution.started_at
        return f"{head} has run{'' if began is None else f' for {_duration((now - began).total_seconds())}'}"
    after = "" if execution.run_s is None else f" after {_duration(execution.run_s)}"
    if execution.outcome == RELEASED:
        return f"{head} was given back{after}{why}"
    if execution.outcome == State.CANCELLED:
        return f"{head} was cancelled{after}"
    if execution.outcome == State.SUCCEEDED:
        return f"{head} succeeded{after}"
    return f"{head} {_VERBS.get(execution.cause or '', 'failed')}{after}{why}"


def ending(reasons: Reasons, entry: ResultEntry, host: str | None) -> Reason:
    """How a finished job ended."""
    place = where(entry.worker, host)
    if entry.state is State.CANCELLED:
        return reasons.cancelled(entry.id, place if entry.worker else "")
    if entry.state is State.SUCCEEDED:
        early = " early, as it was asked," if entry.cause == Outcome.STOPPED else ""
        after = "" if entry.run_ms is None else f" after {shown_duration(entry.run_ms / 1000)}"
        return reasons.succeeded(entry.id, place, entry.attempt or entry.attempts, early + after)
    error = last_line(entry.body.decode(errors="replace"))
    cause = _CAUSES.get(entry.cause, "it failed:")
    return reasons.failed(entry.id, entry.attempts, f"{cause} {error or 'nothing is on record'}")


def where(worker: str | None, host: str | None) -> str:
    """A worker and its host."""
    name = worker or "an unknown worker"
    return f"{name} at {host}" if host else name


def last_line(error: str | None) -> str:
    """What a traceback ends with, or the one line of another error."""
    lines = (error or "").strip().splitlines()
    return shorten(lines[-1].strip(), _MAX_ERROR) if lines else ""


def _duration(seconds: float) -> str:
    return shown_duration(max(0.0, seconds))
