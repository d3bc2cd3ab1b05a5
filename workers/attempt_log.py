"""Logs which attempts begin and end in a worker, at a bounded rate.

::

    settler ──verdicts──▶ counts, a few items ──┐
    state ───dropped────▶ a few items ──────────┼──▶ main thread, twice a second: lines, or one sum
    runner ──what runs──▶ the newest list ──────┘

The threads that run and settle jobs only count. An attempt that begins is noticed by the list of those that
run, and one that was too short for that by its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from queue_eval.foreign_text import plain
from queue_eval.model.attempt import Token
from queue_eval.model.moves import Settlement
from queue_eval.model.states import Outcome, Verdict
from queue_eval.views.formats import shorten, shown_duration

log = plain(logging.getLogger(__name__))

MAX_LINES = 20
"""How many lines a window has; what exceeds them is summed up in one."""

_MAX_ERROR = 200
"""Letters of an error in a line."""

_TAIL_BYTES = 2000
"""The last line of an error is looked for in so much of its end."""

_WORDS = {
    Outcome.OK: "succeeded", Outcome.STOPPED: "succeeded", Outcome.LOST: "lost",
    Outcome.CANCELLED: "cancelled",
}  # fmt: skip

_FAILURES = frozenset(Outcome) - _WORDS.keys() | {Outcome.LOST}

_REMARKS = {
    Verdict.RECORDED: "",
    Verdict.AGAIN: "; it is tried again",
    Verdict.STALE: "; it counts no more: the job was taken from this worker before",
    Verdict.FINISHED: "; the job had finished before",
}


class _End(NamedTuple):
    """The end of one attempt."""

    campaign: str
    token: Token
    outcome: Outcome
    run_s: float | None
    """None: it was dropped, and only counts if it had begun."""
    error: str
    verdict: Verdict


class AttemptLog:
    """Guarantees: in each window of `window_s` seconds at most MAX_LINES lines are logged, and one that sums
    up the others. `settled` and `dropped` take microseconds, whatever the log does with its lines.

    `may_write`: whether a line can be written at once; while it cannot, all is summed up.
    """

    def __init__(self, window_s: float, may_write: Callable[[], bool] = lambda: True) -> None:
        self._window_s = window_s
        self._may_write = may_write
        self._lock = threading.Lock()
        self._ends: list[_End] = []
        self._more: Counter[Outcome] = Counter()
        """Ends beyond those kept in `_ends`."""
        self._failure: _End | None = None
        """The first failure among these."""
        self._running: Sequence[tuple[str, Token]] = ()
        # The rest is used by the main thread only.
        self._known: set[tuple[str, Token]] = set()
        """Attempts whose beginning was logged or counted, and that may still run."""
        self._window_ends_at = 0.0
        self._lines_left = MAX_LINES
        self._sum = _Sum()

    # From the threads that run and settle jobs -----------------------------------------------------------

    def settled(
        self, campaign: str, settlements: Sequence[Settlement], verdicts: Sequence[Verdict]
    ) -> None:
        """The server has judged these."""
        with self._lock:
            room = max(0, MAX_LINES - len(self._ends))
            for settlement, verdict in zip(settlements[:room], verdicts, strict=False):
                self._ends.append(_end_of(campaign, settlement, verdict))
            if len(settlements) > room:
                counts = Counter(map(attrgetter("outcome"), settlements[room:]))
                self._more.update(counts)
                if self._failure is None and counts.keys() & _FAILURES:
                    place = next(i for i, s in enumerate(settlements) if i >= room and s.outcome in _FAILURES)
                    self._failure = _end_of(campaign, settlements[place], verdicts[place])

    def dropped(self, campaign: str, tokens: Sequence[Token]) -> None:
        """These attempts were ended because their jobs had finished, or were not executed here any more."""
        with self._lock:
            room = max(0, MAX_LINES - len(self._ends))
            for token in tokens[:room]:
                self._ends.append(_End(campaign, token, Outcome.CANCELLED, None, "", Verdict.FINISHED))

    def see(self, running: Sequence[tuple[str, Token]]) -> None:
        """What runs now: campaign and token of each attempt."""
        self._running = running

    # From the main thread --------------------------------------------------------------------------------

    @property
    def expects_ends(self) -> bool:
        """Whether something ran when it last looked."""
        return bool(self._known)

    def write(self, *, is_last: bool = False) -> None:
        """Log what has happened since the last call, if the window has room, or sum it up.

        `is_last`: nothing will follow, so the sum does not wait for the end of the window.
        """
        if not self._may_write():
            return
        now = time.monotonic()
        with self._lock:
            ends, self._ends = self._ends, []
            more, self._more = self._more, Counter()
            failure, self._failure = self._failure, None
        running = self._running
        ends = [end for end in ends if end.run_s is not None or (end.campaign, end.token) in self._known]
        lines = self._lines_of(running, ends)
        if more or self._sum or len(lines) > self._lines_left:
            self._sum.add(ends, more, failure, len(running) - len(self._known))
        else:
            self._lines_left -= len(lines)
            for message, details in lines:
                log.info("%s", message, extra=details)
        self._known = set(running)
        if now >= self._window_ends_at or is_last:
            if self._sum:
                message, details = self._sum.line(self._window_s, len(running))
                log.info("%s", message, extra=details)
                self._sum = _Sum()
            self._lines_left = MAX_LINES
            self._window_ends_at = now + self._window_s

    def _lines_of(
        self, running: Sequence[tuple[str, Token]], ends: Sequence[_End]
    ) -> list[tuple[str, dict[str, Any]]]:
        lines = [_begin_line(*attempt) for attempt in running if attempt not in self._known]
        seen = self._known.union(running)
        for end in ends:
            if end.run_s and (end.campaign, end.token) not in seen:
                lines.append(_begin_line(end.campaign, end.token))
            lines.append(_end_line(end))
        return lines


class _Sum:
    """Adds up what is not logged line by line."""

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._growth = 0
        self._failure: _End | None = None

    def __bool__(self) -> bool:
        return bool(self._words or self._growth)

    def add(
        self, ends: Sequence[_End], more: Mapping[Outcome, int], failure: _End | None, growth: int
    ) -> None:
        """`more`: further ends, and one `failure` of these; `growth`: how many more run than before."""
        self._words.update(_word(end.outcome) for end in ends)
        failures = (end for end in ends if end.outcome in _FAILURES)
        self._failure = self._failure or next(failures, failure)
        for outcome, count in more.items():
            self._words[_word(outcome)] += count
        self._growth += growth

    def line(self, window_s: float, running: int) -> tuple[str, dict[str, Any]]:
        # What has ended or runs on has begun.
        begun = max(0, self._words.total() + self._growth)
        told = ", ".join(f"{word} {count}" for word, count in self._words.items())
        within = "in the last second" if window_s == 1 else f"in the last {window_s:g} s"
        counts = {"begun": begun, **self._words, "running": running}
        message = f"begun {begun}{', ' if told else ''}{told} {within}, running {running}"
        details: dict[str, Any] = {"event": "sum", "counts": counts}
        if self._failure is not None:
            failure, about = _end_line(self._failure)
            message += f"; {failure}"
            details["error"] = about["error"]
        return message, details


def about(event: str, campaign: str, token: Token, **more: Any) -> dict[str, Any]:
    """What a log record about an attempt carries besides its message, for logs that machines read."""
    return {"event": event, "campaign": campaign, "job": token[0], "attempt": token[1], **more}


def _end_of(campaign: str, settlement: Settlement, verdict: Verdict) -> _End:
    error = ""
    if settlement.outcome in _FAILURES:
        text = settlement.body[-_TAIL_BYTES:].decode(errors="replace").strip()
        error = shorten(text.rpartition("\n")[2], _MAX_ERROR)
    token = settlement.id, settlement.attempt
    return _End(campaign, token, settlement.outcome, settlement.run_ms / 1000, error, verdict)


def _begin_line(campaign: str, token: Token) -> tuple[str, dict[str, Any]]:
    job, attempt = token
    return f"begins job {job} of {campaign} (attempt {attempt})", about("begun", campaign, token)


def _end_line(end: _End) -> tuple[str, dict[str, Any]]:
    job = f"job {end.token[0]} of {end.campaign}"
    word = _word(end.outcome)
    seconds = None if end.run_s is None else round(end.run_s, 6)
    details = about(word, end.campaign, end.token, seconds=seconds, error=end.error or None)
    if end.outcome is Outcome.CANCELLED:
        return f"{job} is stopped: it was cancelled, or has finished elsewhere", details
    after = f"after {shown_duration(end.run_s)}" if word == "lost" else f"in {shown_duration(end.run_s)}"
    early = ", stopped early" if end.outcome is Outcome.STOPPED else ""
    why = f": {end.error}" if end.error else ""
    return f"{job} {'was ' * (word == 'lost')}{word} {after}{early}{why}{_REMARKS[end.verdict]}", details


def _word(outcome: Outcome) -> str:
    return _WORDS.get(outcome, "failed")
