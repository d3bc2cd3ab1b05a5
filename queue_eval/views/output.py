"""Follows what jobs print: what is new since the look before, of attempts that run or have ended.

::

    live_heads ──▶ live text of those that have printed more ──┐
    result stream, stream of failures ──▶ output on record ────┴──▶ pieces, each behind what was shown

What stands on record has the beginning and the end of an attempt's output, what is live its newest part: a
piece says how many bytes are missing before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from queue_eval.campaign.executions import ExecutionReader
from queue_eval.campaign.paging import PAGE
from queue_eval.campaign.places import Place, all_places_of
from queue_eval.campaign.result_stream import ResultEntry
from queue_eval.campaign.view import CampaignView
from queue_eval.model.job import Execution
from queue_eval.model.live_output import LiveHead, LiveOutput
from queue_eval.model.states import State
from queue_eval.runtime.pipe import split_gap

_MAX_PAGES = 10
"""How many pages of each stream one look reads."""


class Piece(NamedTuple):
    """A part of what an attempt has printed."""

    job: int
    attempt: int
    missing: int
    """How many bytes before it are not shown."""
    text: bytes
    where: str = ""
    """Where these are, if that is known."""


class Seen:
    """How far the output of each job was shown."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[int, int]] = {}

    def attempt_of(self, job: int) -> int:
        """The newest attempt of which something was shown; 0 for none."""
        return self._shown.get(job, (0, 0))[0]

    def live(self, job: int, output: LiveOutput) -> Iterator[Piece]:
        """What of it was not shown before."""
        return self._pieces(job, output.attempt, [(output.left_out, output.text, "")])

    def recorded(self, job: int, attempt: int, output: bytes) -> Iterator[Piece]:
        """What of the output of an attempt that has ended was not shown before."""
        first, missing, last, where = split_gap(output)
        return self._pieces(job, attempt, [(0, first, ""), (len(first) + missing, last, where)])

    def _pieces(self, job: int, attempt: int, parts: Iterable[tuple[int, bytes, str]]) -> Iterator[Piece]:
        """`parts`: how many bytes were printed before it, the text, and where what is missing there is."""
        known, shown = self._shown.get(job, (0, 0))
        if attempt < known:
            return
        shown = shown if attempt == known else 0
        for begin, text, where in parts:
            end = begin + len(text)
            if end > shown:
                new = text[max(0, shown - begin) :]
                missing = max(0, begin - shown)
                yield Piece(job, attempt, missing, new, where if missing else "")
                shown = end
                self._shown[job] = (attempt, shown)


class JobFollower:
    """Follows one job, with every attempt on record."""

    def __init__(self, view: CampaignView, job: int, attempt: int | None = None) -> None:
        """`attempt`: only this one; None: all of them."""
        self._view = view
        self._job = job
        self._attempt = attempt
        self._executions = ExecutionReader(view)
        self._seen = Seen()
        self._stood: tuple[str | None, int, int] | None = None
        self.state: State | None = None
        """Of the job, as of the last look; None: it has finished."""
        self.is_over = False
        """Whether nothing more will come, after the last look."""

    def look(self) -> list[Piece]:
        """What is new, in order."""
        # The live text comes first: what is printed after this reading is on record, or comes next time.
        (live,) = self._view.live_outputs_of([self._job])
        (place,) = all_places_of(self._view, [self._job])
        stands = (place.entry, place.leases, place.attempt)
        ended = self._ended() if stands != self._stood else []
        self._stood = stands
        self.state = None if place.entry is not None else place.state
        self.is_over = self._is_over(place)
        number = live.attempt if live is not None else 0
        pieces = [piece for one in ended if one.number < number for piece in self._recorded(one)]
        if live is not None:
            pieces += self._seen.live(self._job, live)
        pieces += [piece for one in ended if one.number >= number for piece in self._recorded(one)]
        return [piece for piece in pieces if self._attempt in (None, piece.attempt)]

    def _ended(self) -> list[Execution]:
        return [
            one for one in self._executions.executions_of(self._job) if one.finished_at is not None
        ]

    def _recorded(self, one: Execution) -> Iterator[Piece]:
        return self._seen.recorded(self._job, one.number, (one.output or "").encode())

    def _is_over(self, place: Place) -> bool:
        if place.entry is not None:
            return True
        newest = place.attempt if place.worker else place.leases
        ends_at = newest if place.worker else newest + 1
        return self._attempt is not None and self._attempt < ends_at


class CampaignFollower:
    """Follows all jobs that run now or later."""

    def __init__(self, view: CampaignView) -> None:
        self._view = view
        self._seen = Seen()
        newest = view.newest(1)
        self._results = newest[0].entry if newest else "0-0"
        self._failures = view.newest_failure()
        self._known: dict[int, LiveHead] = {}
        self.is_over = False
        """Whether nothing was outstanding at the last look."""

    def look(self) -> list[Piece]:
        """What is new: of each job in order. Raises CampaignNotFoundError when the campaign was purged."""
        outstanding = self._view.standing().outstanding
        pieces = list(self._live())
        pieces += self._failed()
        pieces += self._finished()
        self.is_over = outstanding == 0
        return pieces

    def _live(self) -> Iterator[Piece]:
        # Nothing of an attempt is new whose head is as it was: `Seen` leaves it out without its text.
        heads = self._view.live_heads()
        new = sorted(job for job, head in heads.items() if self._known.get(job) != head)
        self._known = heads
        for job, output in zip(new, self._view.live_outputs_of(new), strict=True):
            if output is not None:
                yield from self._seen.live(job, output)

    def _failed(self) -> Iterator[Piece]:
        for _ in range(_MAX_PAGES):
            failures, self._failures = self._view.failures_after(self._failures)
            for failure in failures:
                yield from self._seen.recorded(failure.job, failure.attempt, failure.output)
            if len(failures) < PAGE:
                return

    def _finished(self) -> Iterator[Piece]:
        for _ in range(_MAX_PAGES):
            entries = self._view.read_after(self._results)
            if not entries:
                return
            self._results = entries[-1].entry
            outputs = self._view.outputs_of([entry.id for entry in entries])
            for entry, output in zip(entries, outputs, strict=True):
                yield from self._seen.recorded(entry.id, self._number_of(entry), output or b"")

    def _number_of(self, entry: ResultEntry) -> int:
        """The attempt that settled the job. A cancelled one is the attempt that was seen, if any was."""
        if entry.state is State.CANCELLED:
            return self._seen.attempt_of(entry.id)
        return entry.attempt or entry.attempts


def newest_lines(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """The pieces with the last `most` lines of what they hold of each job; the others are left out."""
    kept: list[Piece] = []
    left: dict[int, int] = {}
    for piece in reversed(pieces):
        room = left.setdefault(piece.job, most)
        lines = piece.text.splitlines(keepends=True)
        left[piece.job] = max(0, room - len(lines))
        if room > 0:
            cut = b"".join(lines[-room:])
            kept.append(piece if len(lines) <= room else piece._replace(missing=0, text=cut))
    return kept[::-1]
