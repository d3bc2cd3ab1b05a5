"""Follows one campaign for whoever looks: a look costs by what is new, not by how much there is.

::

    look ──▶ snapshot           counts, workers, the newest entry: all of one moment
        ├──▶ follow             fold the entries up to that one into the summary, as far as time allows
        ├──▶ compare            do its counts agree with the snapshot's? if not, jobs run again
        └──▶ keep              for the next viewer, once some thousand entries are new

A summary that may rank a former result (a job that had succeeded runs again) is made anew beside the old
one, which is shown until then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.paging import PAGE, Portion, pages
from queue_eval.campaign.result_stream import ResultEntry, entry_order
from queue_eval.errors import DamagedError, ServerRefusedError
from queue_eval.foreign_text import plain
from queue_eval.model.moves import Snapshot
from queue_eval.model.states import State
from queue_eval.views.strips import MOST_SPANS, Span, spans_of
from queue_eval.views.summary import Summary

log = plain(logging.getLogger(__name__))

LOOK_S = 0.25
"""A look reads new entries for about so long."""

_KEEP_AFTER = 2000
"""A summary is worth keeping once so many entries are new in it."""

_KEEP_EVERY_S = 10.0
_RENEW_EVERY_S = 30.0
"""A summary is made anew at most so often."""


@dataclass(frozen=True)
class Overview:
    """A campaign as one look has found it."""

    snapshot: Snapshot
    summary: Summary
    """Of the outcomes that were read so far. The next look changes it."""
    unread: int
    """About how many outcomes it does not know yet."""

    @property
    def read_share(self) -> float:
        """Which part of the outcomes the summary knows, from 0 to 1."""
        known = sum(self.summary.counts.values())
        return known / (known + self.unread) if self.unread else 1.0


class CampaignReader:
    """Assumes: one thread at a time.

    `view`: of a campaign that exists. A look raises CampaignNotFoundError once it was purged.
    """

    def __init__(self, view: CampaignCommands) -> None:
        self.view = view
        self._summary: Summary | None = None
        self._new: Summary | None = None
        """The summary that is being made anew."""
        self._portion = Portion()
        self._unkept = 0
        self._kept_at = self._renewed_at = float("-inf")
        self._may_keep = True
        self._lacking: tuple[str, int] | None = None
        self._spans: deque[Span] | None = None

    def look(self, budget_s: float = LOOK_S) -> Overview:
        """The campaign now. Reads what is new for about `budget_s` seconds; the next look reads the rest."""
        deadline = time.monotonic() + budget_s
        snapshot = self.view.snapshot(with_newest=True)
        summary = self._summary or self._taken_up()
        if _is_behind(snapshot.newest, summary.cursor):
            summary = Summary()  # the server has lost its last second
        self._summary = summary
        if self._follow(summary, snapshot, deadline):
            self._compare(summary, snapshot)
        self._renew(snapshot, deadline)
        self._keep()
        known = sum(self._summary.counts.values())
        return Overview(snapshot, self._summary, max(0, snapshot.finished - known))

    def look_to_the_end(self, budget_s: float) -> Overview:
        """A look that takes as long as there is something to read, but at most about `budget_s` seconds."""
        deadline = time.monotonic() + budget_s
        while True:
            overview = self.look(min(LOOK_S, max(0.0, deadline - time.monotonic())))
            is_at_end = overview.summary.cursor == overview.snapshot.newest and self._new is None
            if is_at_end or time.monotonic() >= deadline:
                return overview

    def spans(self) -> list[Span]:
        """Who ran the newest outcomes when, the newest last. The first call reads them."""
        if self._spans is None:
            newest = self.view.newest(MOST_SPANS)
            self._spans = deque(spans_of(reversed(newest)), MOST_SPANS)
        return list(self._spans)

    def close(self) -> None:
        """Keep what was read for the next viewer."""
        self._keep(is_last=True)

    # ----------------------------------------------------------------------------------------------------

    def _taken_up(self) -> Summary:
        """The summary that the last viewer has kept, or an empty one."""
        kept = self.view.kept_summary()
        if kept is not None:
            try:
                return Summary.from_bytes(kept)
            except DamagedError as error:
                log.info("campaign %s: %s; it is made anew", self.view.campaign, error)
        return Summary()

    def _follow(self, summary: Summary, snapshot: Snapshot, deadline: float) -> bool:
        """Fold entries up to the snapshot's newest. Returns whether that was reached in time."""
        while summary.cursor != snapshot.newest:
            entries = self.view.read_until(summary.cursor, snapshot.newest, self._portion.count)
            if not entries:  # entries are deleted by nobody, but the stream may be damaged
                summary.cursor = snapshot.newest
                break
            # Of a job that has run again only the newest outcome counts.
            current = self._current(entries) if snapshot.retried else None
            for entry in entries:
                if current is None or entry.entry in current:
                    summary.fold(entry)
                else:
                    summary.pass_over(entry)
            self._portion.adapt(len(entries), sum(len(entry.body) for entry in entries))
            self._unkept += len(entries)
            if self._spans is not None and summary is self._summary:
                self._spans.extend(spans_of(entries))
            if time.monotonic() >= deadline:
                break
        return summary.cursor == snapshot.newest

    def _current(self, entries: Sequence[ResultEntry]) -> set[str | None]:
        return set(self.view.index_of([entry.id for entry in entries]))

    def _compare(self, summary: Summary, snapshot: Snapshot) -> None:
        """Forget the outcomes of jobs that run again. The summary goes up to the snapshot's newest entry."""
        counts = summary.counts
        surplus = sum(max(0, counts[state] - snapshot.counts[state]) for state in _WITHOUT_SUCCESS)
        for page in pages(summary.without_success(), PAGE) if surplus else ():
            for job, entry in zip(page, self.view.index_of(page), strict=True):
                if entry is None:
                    summary.forget(job)
        if counts[State.SUCCEEDED] > snapshot.counts[State.SUCCEEDED]:
            summary.has_unranked = True
        if sum(counts.values()) < snapshot.finished:
            # A job that began to run again after the snapshot was forgotten too early: the next snapshot
            # counts as the summary does. If not, entries were missed.
            lacking = (snapshot.newest, snapshot.retried)
            summary.has_unranked |= lacking == self._lacking
            self._lacking = lacking

    def _renew(self, snapshot: Snapshot, deadline: float) -> None:
        """Go on with the new summary, if one is needed, and replace the old one when it is complete."""
        assert self._summary is not None
        if self._new is None:
            now = time.monotonic()
            if not self._summary.has_unranked or now < self._renewed_at + _RENEW_EVERY_S:
                return
            self._new, self._renewed_at = Summary(), now
        if self._follow(self._new, snapshot, deadline):
            self._summary, self._new = self._new, None

    def _keep(self, *, is_last: bool = False) -> None:
        now, summary = time.monotonic(), self._summary
        is_due = is_last or now >= self._kept_at + _KEEP_EVERY_S
        if summary is None or not self._may_keep or self._unkept < _KEEP_AFTER or not is_due:
            return
        self._kept_at, self._unkept = now, 0
        try:
            self.view.keep_summary(summary.cursor, summary.to_bytes())
        except ServerRefusedError as error:
            log.info("campaign %s: what was read cannot be kept: %s", self.view.campaign, error)
            self._may_keep = False


_WITHOUT_SUCCESS = (State.FAILED, State.CANCELLED)


def _is_behind(one: str, other: str) -> bool:
    return entry_order(one) < entry_order(other)
